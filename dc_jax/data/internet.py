"""Whether a download can work, before one is tried for minutes."""

import threading
import urllib.parse
from collections.abc import Iterable

# Until it is said that there is no network.
_SECONDS = 7


def is_reachable(addresses: Iterable[str], seconds: float = _SECONDS) -> bool:
    """Whether any of the hosts of some addresses (URLs) answers, in whatever way.

    It respects the proxies of the environment.
    """
    urls = map(urllib.parse.urlsplit, addresses)
    hosts = {f"{url.scheme}://{url.netloc}" for url in urls if "http" in url.scheme}
    answered, finished = threading.Event(), threading.Event()
    remaining = len(hosts)
    lock = threading.Lock()

    def ask(host: str) -> None:
        nonlocal remaining
        import requests

        try:
            requests.head(host, timeout=seconds)
            answered.set()
        except requests.RequestException:
            pass
        with lock:
            remaining -= 1
            if answered.is_set() or not remaining:
                finished.set()

    # Looking up a name has no time limit of its own, so that nothing waits for these.
    for host in hosts:
        threading.Thread(target=ask, args=(host,), daemon=True).start()
    finished.wait(seconds if hosts else 0)
    return answered.is_set()
