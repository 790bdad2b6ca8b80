"""Cuts lists of instances into pieces that every client can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostmanager.v1 import host_manager_pb2 as pb

# gRPC clients accept messages of up to 4 MiB unless told otherwise. An instance is half a KiB as a rule, but
# its command line may be long.
PIECE_BYTES = 1024 * 1024
PIECE_INSTANCES = 500


def in_pieces(
    instances: Iterable[pb.ManagedInstance], most: int = PIECE_INSTANCES
) -> Iterator[list[pb.ManagedInstance]]:
    """The instances in lists of at most `most`, and of at most PIECE_BYTES; a larger one comes alone."""
    piece: list[pb.ManagedInstance] = []
    size = 0
    for instance in instances:
        more = instance.ByteSize()
        if piece and (len(piece) >= most or size + more > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(instance)
        size += more
    if piece:
        yield piece
