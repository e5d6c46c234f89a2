"""The language model head and its loss, summed over the supervised positions.

Enters: hidden states of the supervised positions alone. Leaves: logits, or the summed cross entropy in float32. The
loss is computed inside the head's own forward, since under ZeRO-3 the weight is whole only there; in chunks, so that
the float32 logits of a long pack never stand in memory at once; not divided, since only the plan knows the weight of
the whole step (DESIGN, decision 4).
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

_CHUNK_POSITIONS = 1024  # float32 logits of one chunk: 1024 · 32064 · 4 bytes = 131 MB


class LanguageModelHead(torch.nn.Linear):
    """``lm_head``: M supervised positions of width ``in_features`` → logits, or their loss."""

    def forward(self, hidden_MD: torch.Tensor, targets_M: torch.Tensor | None = None) -> torch.Tensor:
        """Without ``targets_M`` return logits (M, vocabulary); with them the summed loss, a float32 scalar."""
        if targets_M is None:
            return super().forward(hidden_MD)
        chunks = zip(hidden_MD.split(_CHUNK_POSITIONS), targets_M.split(_CHUNK_POSITIONS), strict=True)
        if hidden_MD.shape[0] <= _CHUNK_POSITIONS:
            return self._chunk_loss(hidden_MD, targets_M)
        losses = [checkpoint(self._chunk_loss, h, t, use_reentrant=False) for h, t in chunks]
        return torch.stack(losses).sum()

    def _chunk_loss(self, hidden_MD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        logits = F.linear(hidden_MD, self.weight).float()
        return F.cross_entropy(logits, targets_M, reduction="sum")
