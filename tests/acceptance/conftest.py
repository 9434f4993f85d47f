"""Nodes for the acceptance tests."""

from collections.abc import Callable, Iterator

import pytest
from support.running_node import RunningNode, WaitUntil

from pacs_node.demo.pacs import Address


@pytest.fixture
def new_node(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], wait_until: WaitUntil
) -> Iterator[Callable[..., RunningNode]]:
    """Make nodes with an AE title and port of their own; all are ended with the test."""
    made: list[RunningNode] = []

    def make(config: str = "", ae_title: str = "PACSNODE") -> RunningNode:
        folder = tmp_path_factory.mktemp("node")
        node = RunningNode(folder, Address(ae_title, "127.0.0.1", free_port()), wait_until, config)
        made.append(node)
        return node

    yield make
    for node in made:
        if node.is_running():
            node.stop()
