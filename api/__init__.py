"""The service that hosts the contracts: HTTP, credentials, processes and the embedded database."""
