"""A FUSE file system in memory, speaking the kernel's protocol. On the word `cut` it forgets all bytes that were not synced
and answers nothing more, until the word `on`.
"""

import ctypes
import errno
import os
import selectors
import stat
import struct
import sys
import time

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME = 1, 2, 3, 4, 9, 10, 11, 12
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, INIT = 14, 15, 16, 17, 18, 20, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, ACCESS, CREATE, INTERRUPT = 27, 28, 29, 30, 34, 35, 36
BATCH_FORGET, FALLOCATE, RENAME2 = 42, 43, 45
MAX_WRITE = 1 << 17
SIZE_VALID, MODE_VALID = 1 << 3, 1 << 0


class Node:
    def __init__(self, number, mode):
        self.number, self.mode = number, mode
        self.children = {} if stat.S_ISDIR(mode) else None
        self.live, self.durable = bytearray(), bytearray()
        self.dirty = []
        self.resized = False
        self.when = int(time.time())

    def resize(self, size):
        if size < len(self.live):
            del self.live[size:]
        else:
            self.live.extend(bytes(size - len(self.live)))
        self.resized = True

    def write(self, offset, data):
        if offset + len(data) > len(self.live):
            self.resize(offset + len(data))
        self.live[offset : offset + len(data)] = data
        self.dirty.append((offset, len(data)))
        self.when = int(time.time())

    def sync(self):
        if self.resized:
            self.durable = bytearray(self.live)
        else:
            for offset, size in self.dirty:
                self.durable[offset : offset + size] = self.live[offset : offset + size]
        self.dirty, self.resized = [], False

    def cut(self):
        lost = sum(size for _, size in self.dirty)
        self.live, self.dirty, self.resized = bytearray(self.durable), [], False
        return lost


class Refused(Exception):
    """An errno for the kernel."""


class FileSystem:
    def __init__(self):
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755)}
        self.following = 2

    def attributes(self, node):
        size = len(node.live)
        return struct.pack("<QQQQQQIIIIIIIIII", node.number, size, (size + 511) // 512, node.when, node.when, node.when,
                           0, 0, 0, node.mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)

    def entry(self, node):
        return struct.pack("<QQQQII", node.number, 0, 0, 0, 0, 0) + self.attributes(node)

    def make(self, parent, name, mode):
        node = Node(self.following, mode)
        self.following += 1
        self.nodes[node.number] = node
        parent.children[name] = node
        return node

    def child(self, parent, name):
        if name not in parent.children:
            raise Refused(errno.ENOENT)
        return parent.children[name]

    def remove(self, parent, name):
        node = self.child(parent, name)
        if node.children:
            raise Refused(errno.ENOTEMPTY)
        del parent.children[name]
        return b""

    def rename(self, parent, body, header):
        target = self.nodes[struct.unpack_from("<Q", body)[0]]
        old, new = body[header:].split(b"\0")[:2]
        node = self.child(parent, old)
        del parent.children[old]
        target.children[new] = node
        return b""

    def set_attributes(self, node, body):
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & SIZE_VALID:
            node.resize(size)
        if valid & MODE_VALID:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(struct.unpack_from("<I", body, 68)[0])
        return struct.pack("<QII", 0, 0, 0) + self.attributes(node)

    def list(self, node, offset, size):
        names = [(b".", node), (b"..", node), *node.children.items()]
        out = b""
        for index, (name, child) in enumerate(names[offset:], offset + 1):
            one = struct.pack("<QQII", child.number, index, len(name), stat.S_IFMT(child.mode) >> 12) + name
            one += bytes(-len(one) % 8)
            if len(out) + len(one) > size:
                break
            out += one
        return out

    def allocate(self, node, body):
        _, offset, length, mode, _ = struct.unpack_from("<QQQII", body)
        if mode:
            raise Refused(errno.EOPNOTSUPP)
        if offset + length > len(node.live):
            node.resize(offset + length)
        return b""

    def answer(self, operation, node, body):
        """The reply's bytes; None when the kernel wants no reply."""
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            return None
        if operation == INIT:
            major, minor, ahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), ahead, 1 << 5, 16, 12, MAX_WRITE, 1, 0, 0, 0)
        if operation == LOOKUP:
            return self.entry(self.child(node, body.split(b"\0")[0]))
        if operation == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self.attributes(node)
        if operation == SETATTR:
            return self.set_attributes(node, body)
        if operation == MKDIR:
            mode, umask = struct.unpack_from("<II", body)
            return self.entry(self.make(node, body[8:].split(b"\0")[0], stat.S_IFDIR | mode & ~umask & 0o7777))
        if operation == CREATE:
            _, mode, umask, _ = struct.unpack_from("<IIII", body)
            made = self.make(node, body[16:].split(b"\0")[0], stat.S_IFREG | mode & ~umask & 0o7777)
            return self.entry(made) + struct.pack("<QII", 0, 0, 0)
        if operation in (UNLINK, RMDIR):
            return self.remove(node, body.split(b"\0")[0])
        if operation in (RENAME, RENAME2):
            return self.rename(node, body, 8 if operation == RENAME else 16)
        if operation in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(node.live[offset : offset + size])
        if operation == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            node.write(offset, body[40 : 40 + size])
            return struct.pack("<II", size, 0)
        if operation == READDIR:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self.list(node, offset, size)
        if operation == FALLOCATE:
            return self.allocate(node, body)
        if operation == FSYNC:
            node.sync()
            return b""
        if operation == STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 22, 1 << 22, 1 << 22, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        if operation in (RELEASE, RELEASEDIR, FSYNCDIR, ACCESS):
            return b""
        # FLUSH among them: the kernel then leaves it out, and a process can die while the power is off.
        raise Refused(errno.ENOSYS)


def mount(path):
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"forgetful", os.fsencode(path), b"fuse.forgetful", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    return device


def serve_one(device, system):
    request = os.read(device, MAX_WRITE + 65536)
    _, operation, unique, number = struct.unpack_from("<IIQQ", request)
    try:
        reply, error = system.answer(operation, system.nodes.get(number), request[40:]), 0
    except Refused as refused:
        reply, error = b"", -refused.args[0]
    if reply is not None:
        try:
            os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
        except FileNotFoundError:
            return  # The caller was interrupted.


def main():
    system = FileSystem()
    device = mount(sys.argv[1])
    print("mounted", flush=True)
    events = selectors.DefaultSelector()
    events.register(device, selectors.EVENT_READ)
    events.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj == device:
                try:
                    serve_one(device, system)
                except OSError as gone:
                    if gone.errno == errno.ENODEV:
                        return
                    raise
                continue
            word = sys.stdin.readline().strip()
            if word == "cut":
                events.unregister(device)
                print(sum(node.cut() for node in system.nodes.values()), flush=True)
            elif word == "on":
                events.register(device, selectors.EVENT_READ)
            else:
                return
            break


if __name__ == "__main__":
    main()
