"""What a process of a job reads in its environment, and where its scheduler is to listen, before anything waits."""

import socket

import pytest

from src.platform.errors import InputError
from src.platform.parallel import check_cluster, check_scheduler

GOOD = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "2",
    "MS_SCHED_HOST": "127.0.0.1",
    "MS_SCHED_PORT": "8118",
    "RANK_ID": "1",
}


def test_what_msrun_sets_is_taken():
    check_cluster(GOOD)
    check_cluster({**GOOD, "MS_ROLE": "MS_SCHED", "RANK_ID": ""})  # a scheduler has no rank


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("MS_ROLE", ["", "worker", "MS_PSERVER"]),
        ("MS_WORKER_NUM", ["", "0", "-1", "two", "1.5", "²", "9" * 30]),
        ("MS_SCHED_PORT", ["", "0", "-1", "65536", "99999", "x"]),
        ("MS_SCHED_HOST", [""]),
        ("RANK_ID", ["", "2", "-1", "one"]),
    ],
)
def test_nonsense_is_named(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name}: "):
            check_cluster({**GOOD, name: value})
    if name != "MS_ROLE":
        with pytest.raises(InputError, match=f"^{name}: "):
            check_cluster({key: value for key, value in GOOD.items() if key != name})


def test_the_port_of_the_scheduler_must_be_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot use 127.0.0.1:{port}: Address already in use"):
            check_scheduler("127.0.0.1", port)
    check_scheduler("127.0.0.1", port)
    check_scheduler("127.0.0.1", port)  # which leaves it free


def test_the_address_of_the_scheduler_must_be_of_this_host():
    with pytest.raises(InputError, match=r"cannot use 192\.0\.2\.1:8118: Cannot assign requested address"):
        check_scheduler("192.0.2.1", 8118)  # of the network for documentation
    with pytest.raises(InputError, match=r"^MASTER_ADDR: no such host: "):
        check_scheduler("no such host", 8118)
