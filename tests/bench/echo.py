"""A server that does next to nothing, to find what the load generator itself can do.

Run as `python -m tests.bench.echo` it prints its port, and ends when its stdin does.
"""

import select
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 300\r\n\r\n" + b"x" * 300


def main() -> None:
    """Answer whatever arrives, one packet one answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    clients: dict[int, socket.socket] = {}
    with select.epoll() as poll:
        poll.register(listener, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                if number == 0:
                    return
                if number == listener.fileno():
                    client, _address = listener.accept()
                    clients[client.fileno()] = client
                    poll.register(client, select.EPOLLIN)
                elif not _answer(clients[number]):
                    clients.pop(number).close()


def _answer(client: socket.socket) -> bool:
    try:
        return bool(client.recv(65536)) and bool(client.send(ANSWER))
    except ConnectionError:
        return False


if __name__ == "__main__":
    main()
