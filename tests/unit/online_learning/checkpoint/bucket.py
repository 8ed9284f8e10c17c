"""An object store for tests, behind fsspec: flat keys, no folders, no rename, whole objects only, stale listings."""

import io
from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem


class Bucket(AbstractFileSystem):
    """All buckets of this process. A listing is what it was when it was first asked for, until the cache is dropped.

    `puts_left`: PUTs until the writer is cut off (None: never); a PUT is seen whole or not at all.
    """

    protocol = "bucket"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}
    puts_left: ClassVar[int | None] = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.listed: dict[str, list[str]] = {}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        prefix = self._strip_protocol(path).strip("/") + "/"
        if prefix not in self.listed:
            names = {key[len(prefix) :].split("/")[0] for key in self.objects if key.startswith(prefix)}
            self.listed[prefix] = sorted(prefix + name for name in names)
        found = self.listed[prefix]
        if not found:
            raise FileNotFoundError(path)
        return [self.info(name) for name in found] if detail else list(found)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path).strip("/")
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(key.startswith(path + "/") for key in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders."""

    def rm_file(self, path: str) -> None:
        del self.objects[self._strip_protocol(path).strip("/")]

    def rmdir(self, path: str) -> None:
        """There are no folders."""

    def mv(self, *paths: str, **kwargs: Any) -> None:
        raise NotImplementedError("objects cannot be renamed")

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listed.clear()

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        path = path.strip("/")
        if mode == "rb":
            if path not in self.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.objects[path])
        return _Upload(path)


class _Upload(io.BytesIO):
    """Becomes an object when it is closed."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def close(self) -> None:
        if self.closed:
            return
        if Bucket.puts_left is not None:
            if Bucket.puts_left == 0:
                super().close()
                # Not an OSError: stores have errors of their own.
                raise RuntimeError("the connection is gone")
            Bucket.puts_left -= 1
        Bucket.objects[self._key] = self.getvalue()
        super().close()


def register() -> None:
    """Makes bucket:// known to fsspec."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)
