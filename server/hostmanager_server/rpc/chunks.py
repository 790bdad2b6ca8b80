"""Size-bounded chunks of instance lists, small enough for the default limits of every gRPC client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# gRPC clients accept messages of up to 4 MiB by default. An instance usually takes half a KiB, but its
# command line may be long.
CHUNK_BYTES = 1024 * 1024
CHUNK_INSTANCES = 500


def in_chunks(instances: Iterable[bytes], most: int = CHUNK_INSTANCES) -> Iterator[list[bytes]]:
    """Yield the serialized instances in lists of at most `most` entries and CHUNK_BYTES.

    An instance larger than CHUNK_BYTES comes alone.
    """
    chunk: list[bytes] = []
    size = 0
    for instance in instances:
        more = len(instance)
        if chunk and (len(chunk) >= most or size + more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(instance)
        size += more
    if chunk:
        yield chunk
