"""A terminal for a program: what it writes there, in a window of a given width."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata

SGR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """`columns` of 0: a terminal that does not know its width."""

    def __init__(self, columns=80, term="xterm"):
        self.columns, self.term = columns, term

    def start(self, argv, cwd=None, **env):
        """The process, and the end of the terminal that shows what it writes."""
        mine, its = pty.openpty()
        self.resize(its, self.columns)
        flags = termios.tcgetattr(its)
        flags[1] &= ~termios.OPOST  # line ends as they were written
        termios.tcsetattr(its, termios.TCSANOW, flags)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "TERM", "LINES")}
        p = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=its, stderr=subprocess.PIPE, cwd=cwd,
                             env=kept | ({"TERM": self.term} if self.term else {}) | env)
        os.close(its)
        return p, mine

    @staticmethod
    def resize(fd, columns):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))

    def run(self, argv, code=0, cwd=None, **env):
        """All that it wrote, with the control sequences in it."""
        p, mine = self.start(argv, cwd, **env)
        out = b""
        while True:
            try:
                got = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not got:
                break
            out += got
        os.close(mine)
        err = p.stderr.read().decode()
        assert p.wait(300) == code, (p.returncode, out[-3000:], err[-3000:])
        assert "runtime error" not in err and "ERROR: " not in err, err
        return out.decode()


def plain(text):
    """Without colours; anything else that a terminal would obey is a fault."""
    text = SGR.sub("", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), text
    return text


def width(line):
    """As a terminal counts: East Asian wide characters take two columns, marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)
