"""The recognition service: a trained model behind HTTP, with a page to try it.

`serve` runs it; `create_app(Service(served))` is the ASGI application for another server. What is served is a
`Served`, which is plain values: the command line makes one of a run or an export.
"""

from jaxrobust.serving.app import create_app
from jaxrobust.serving.keys import Keys, read_keys
from jaxrobust.serving.served import LoadFn, Served, Settings
from jaxrobust.serving.server import serve
from jaxrobust.serving.service import Service

__all__ = ["Keys", "LoadFn", "Served", "Service", "Settings", "create_app", "read_keys", "serve"]
