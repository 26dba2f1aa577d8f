"""Other people's models as a `Transformer`: their settings translated, their weights renamed, the result compared."""

from mechinterp.models.convert.huggingface import from_hf
from mechinterp.models.convert.tables import Row, from_weights
from mechinterp.models.convert.transformer_lens import from_transformer_lens

__all__ = ["Row", "from_hf", "from_transformer_lens", "from_weights"]
