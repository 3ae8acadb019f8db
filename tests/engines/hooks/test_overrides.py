"""The blocks' overrides: one for each block, and a block that was replaced is noticed."""

from skipcache.engines.hooks.engine import HookEngine
from skipcache.engines.hooks.overrides import BlockCall, overrides, still_there
from skipcache.stack import Stack, make_plan
from tests.models.odd import tiny
from tests.models.originals import Block


def test_each_block_has_one_and_a_replaced_block_is_noticed():
    model = tiny()
    engine = HookEngine(model, Stack(tuple((f"blocks.{i}",) for i in range(5)), "x", "t"), make_plan(5, 1))
    made = overrides(engine)
    assert [type(one) for one in made] == [BlockCall] * 5 and [one.module for one in made] == list(model.blocks)
    assert still_there(model, engine.stack.blocks, made)
    model.blocks[2] = Block(16)
    assert not still_there(model, engine.stack.blocks, made)
