"""What `torch.compile` has compiled runs as it is written for a while, and compiled again afterwards."""

import torch

from skipcache.blocks import eagerly


def test_compiled_functions_run_as_they_are_written_inside():
    ran = []
    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, backend=lambda graph, _: lambda *args: ran.append(1) or graph(*args))
    x = torch.ones(2)
    function(x)
    with eagerly(), eagerly():
        assert torch.equal(function(x), x + 1)
    assert len(ran) == 1
    function(x)
    assert len(ran) == 2
    torch._dynamo.reset()
