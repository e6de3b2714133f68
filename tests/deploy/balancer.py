"""A balancer as small as it can be: connections go, in turn, to the gateways whose /readyz says 200; asked every 100 ms."""
import asyncio
import threading


class Balancer:
    def __init__(self, backends):
        """backends: [(port, admin port)]"""
        self.backends = backends
        self.ready = set()
        self.taken = {port: 0 for port, _ in backends}
        self.turn = 0
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(10)

    def _run(self, started):
        asyncio.set_event_loop(self.loop)

        async def begin():
            server = await asyncio.start_server(self._take, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self.tasks = [asyncio.ensure_future(self._watch(*b)) for b in self.backends]
            started.set()
        self.loop.run_until_complete(begin())
        self.loop.run_forever()

    async def _watch(self, port, admin):
        while True:
            status, writer = b"", None
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", admin), 1)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                status = await asyncio.wait_for(reader.readline(), 1)
            except (OSError, asyncio.TimeoutError):
                pass
            finally:
                if writer:
                    writer.close()
            (self.ready.add if b" 200 " in status else self.ready.discard)(port)
            await asyncio.sleep(0.1)

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def _take(self, reader, writer):
        ready = sorted(self.ready)
        if not ready:
            writer.close()
            return
        port = ready[self.turn % len(ready)]
        self.turn += 1
        self.taken[port] += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))

    def stop(self):
        def end():
            [t.cancel() for t in asyncio.all_tasks(self.loop)]
            self.loop.call_later(0.1, self.loop.stop)
        self.loop.call_soon_threadsafe(end)
        self.thread.join(10)
