"""What happens when something breaks, stops, is revoked or is hammered: real processes, really killed."""
