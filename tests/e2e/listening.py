"""A server of a test's own: each connection in a thread, which is closed when its function returns."""
import socket
import ssl
import threading


def shut(*sockets):
    """Both ways; whoever reads there is told."""
    for s in sockets:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself


class Listening:
    """`serve(socket, number)` is run for each connection, the first is number 1; what breaks it off is in `errors`."""

    def __init__(self, serve, host="127.0.0.1", port=0, tls=None, listen=True):
        """tls: an SSLContext. listen: else the port is bound, and nobody answers there until listen()."""
        self._serve, self.tls, self.count, self.connections, self.errors = serve, tls, 0, [], []
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, port))
        self.port = self.socket.getsockname()[1]
        if listen:
            self.listen()

    def listen(self):
        self.socket.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            self.connections.append(c)
            threading.Thread(target=self._run, args=(c, self.count), daemon=True).start()

    def _run(self, c, number):
        try:
            if self.tls:
                c = self.tls.wrap_socket(c, server_side=True, do_handshake_on_connect=False)
                self.connections.append(c)
                c.do_handshake()
            self._serve(c, number)
        except (OSError, ValueError, ssl.SSLError) as e:
            self.errors.append(e)
        finally:
            c.close()

    def drop(self):
        """Ends all connections."""
        shut(*self.connections)
        self.connections.clear()

    def close(self):
        """Takes no more; a thread that waits for the next one ends, too."""
        shut(self.socket)
        self.socket.close()
