"""
Chains: a filter is a class, a chain is the filters of one server event, in order.

::

    class AFilter(FilterMeta):
        pass

    class A(FilterBase, metaclass=AFilter):     # a chain base: owns a chain
        pass

    class B(A):                                 # a filter: appended to A's chain
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("foo")

    class C(A):
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("bar")

    A.run(web_socket_instance)                  # foo, bar

What a filter returns is the next filter's input; ``None`` means "as it is now", so
a filter that changes a bytearray in place, or only looks, needs no return.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..chains.chain import Chain
from ..chains.stage import dotted_path
from ..exceptions import FilterError
from ..logs import printable

__all__ = [
    "PACKAGE_EVENTS",
    "FilterBase",
    "FilterMeta",
    "WebSocketCallFilter",
    "WebSocketConnectFilter",
    "WebSocketConsumerFilter",
    "WebSocketDataFilter",
    "WebSocketDisconnectFilter",
    "WebSocketGroupFilter",
    "WebSocketJoinFilter",
    "WebSocketLeaveFilter",
    "WebSocketMessageFilter",
    "WebSocketSendFilter",
    "printable",
]

#: The ``type`` of consumer-chain events that this package sends.
PACKAGE_EVENTS = frozenset({"gap", "layer_back", "layer_lost", "publish_failed"})


class FilterMeta(type):
    """
    Registers filters. A class directly on :class:`FilterBase` is a chain base and
    gets a chain of its own; any other appends itself to its base's chain.

    A leading underscore keeps a helper base out of the chain.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        if FilterBase in bases:
            cls._own_chain = Chain(name)
            cls._chain_base = cls
            return
        owners = {base._chain_base for base in bases if isinstance(base, FilterMeta)}
        if len(owners) > 1:
            names = " and ".join(sorted(owner.__name__ for owner in owners))
            raise TypeError(f"{dotted_path(cls)} is on two chains, {names}: make it two filters")
        if not name.startswith("_") and namespace.get("_registers", True):
            owner = owners.pop()
            filters: Any = (*owner._own_chain.filters, cls)
            owner._own_chain = Chain(owner.__name__, filters)

    # Set on chain bases by __init__.
    _own_chain: Chain
    _chain_base: "FilterMeta"


class FilterBase:
    """The root of every chain base; see the module's example."""

    #: True: the ``def`` filter runs in a thread of its own pool, where it may block.
    blocking: ClassVar[bool] = False
    #: Types that it pushes or publishes, for ``manage.py filters --schema``: one, or a tuple.
    sends: ClassVar[Any] = ()

    if TYPE_CHECKING:
        # Any signature that a chain accepts is a proper override.
        filter: ClassVar[Callable[..., Any]]
    else:

        @classmethod
        def filter(cls, web_socket_instance, data=None):
            """Handle one event. Every filter overrides it."""
            raise NotImplementedError(f"{dotted_path(cls)} defines no filter()")

    @classmethod
    def run(cls, web_socket_instance: Any, data: Any = None) -> Any:
        """
        Pipe ``data`` through every filter defined on this chain base.

        Raises what a filter raises, and RuntimeError where one is ``async``.
        """
        try:
            return cls._chain_base._own_chain.run(web_socket_instance, data)  # type: ignore[attr-defined]
        except FilterError as error:
            raise error.__cause__ or error from None

    @classmethod
    async def arun(cls, web_socket_instance: Any, data: Any = None) -> Any:
        """:meth:`run`, awaiting async filters and running blocking ones in a thread."""
        try:
            return await cls._chain_base._own_chain.arun(web_socket_instance, data)  # type: ignore[attr-defined]
        except FilterError as error:
            raise error.__cause__ or error from None


class WebSocketConnectFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs once per connection, before it is accepted.

    ``data`` is the :class:`~filtered_websocket.connections.handshake.Handshake`. ``Drop``,
    ``Close`` and any error refuse the connection.
    """


class WebSocketJoinFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs before a connection is in a group, once the group's rule has allowed it; ``data`` is
    the :class:`~filtered_websocket.connections.subscription.Subscription`, whose ``info`` and
    ``reply`` it may set. ``Drop`` refuses the join: it raises
    :exc:`~filtered_websocket.NotAllowed`. What the filter returns is ignored.
    """


class WebSocketLeaveFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs after a connection was in a group, on every way out, before the disconnect chain;
    ``data`` is its subscription. Every filter runs, even if an earlier one raises.
    """


class WebSocketDataFilter(FilterBase, metaclass=FilterMeta):
    """Runs on every frame, before it is decoded; ``data`` is a mutable bytearray."""


class WebSocketMessageFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on every frame that decoded; ``data`` is a mutable bytearray, or what the
    route's codec made of the frame; with a pydantic model or a dataclass as the annotation of the
    parameter, an instance of that.
    """


class WebSocketCallFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on a request that has an answer; ``data`` is the :class:`~filtered_websocket.types.Call`.

    The first filter that returns something gives the answer, and later ones do not run; a
    returned ``Call`` goes to the next filter instead. ``Drop``, or no answer: there is no such
    method. Any other error is an error to the client.

    With a pydantic model or a dataclass as the annotation of the parameter the filter gets an
    instance, made of the data of calls of its ``method``, and no others.
    """

    #: Of a filter that declares a type: the calls that it answers.
    method: ClassVar[str] = ""


class WebSocketGroupFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on every group message, once per process and pipeline with members here,
    before it is fanned out. What it returns is fanned out; ``Drop`` keeps it from
    this pipeline's members here.
    """


class WebSocketSendFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on every group message once per recipient, after the group chain;
    ``web_socket_instance`` is the recipient. What it returns is sent to this one, ``Drop``
    keeps the message from this one. Members that are excluded, or whose connection closes,
    are no recipients.
    """


class WebSocketConsumerFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on events of a process: from the storage object's pub/sub, from ``queue.put``, and
    this package's own (``PACKAGE_EVENTS``). ``web_socket_instance`` is this pipeline's view
    of the hub. What comes out of the chain is ignored.
    """


class WebSocketDisconnectFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs once per accepted connection, however it ended; ``data`` is ``None``. Every
    filter runs, even if an earlier one raises.
    """
