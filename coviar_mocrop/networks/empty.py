"""Networks that are about to be loaded need no initial weights: drawing random numbers is most of building one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS = (init.kaiming_uniform_, init.kaiming_normal_, init.uniform_, init.normal_, Tensor.uniform_, Tensor.normal_)


class EmptyParameters(TorchFunctionMode):
    """Within this context, new parameters are not filled with random numbers; they hold anything.

    For networks whose state dict is loaded next, as a whole. Buffers are filled as ever, because a state dict may leave
    them out.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out the drawing of random numbers; see :class:`torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if function in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return function(*args, **kwargs)
