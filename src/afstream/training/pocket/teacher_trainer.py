"""The pocket teacher: a bidirectional model of whole clips, which distillation learns from.

It begins with the weights of the causal student, whose layout it shares, and keeps its text
encoder, so that both read a prompt alike. Clips are as long as the horizon. In some of them
the scene changes after the first chunk, as in the windows that follow a prompt switch; the
prompt is then the second one. Without a prompt (`drop_share`) it learns what guidance needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afstream.config import TIMESTEPS
from afstream.engine.schedule import add_noise, shifted_sigma
from afstream.families.pocket.text import PocketText
from afstream.model.dit import Backbone
from afstream.training.dmd.bidirectional import predict_flow
from afstream.training.pocket.data import Clips
from afstream.training.trainer.loop import Trainer
from afstream.training.trainer.optim import Ema, muon_and_adamw
from afstream.training.trainer.settings import Batch, MuonConfig, Positive, Share


class TeacherConfig(MuonConfig):
    """`[teacher]`: training of the bidirectional teacher.

    Attributes:
        batch: clips in a step.
        shift: of the timesteps, toward noise; less than the sampler's, for the details' sake.
        drop_share: share of the clips that are shown without their prompt.
    """

    batch: Batch
    shift: Positive
    drop_share: Share


class TeacherTrainer(Trainer):
    """One run of the teacher's training: begins with the causal student, which is trained in place.

    The text encoder is not trained; the clips switch, if at all, after the first chunk.
    """

    def __init__(
        self, config: TeacherConfig, backbone: Backbone, text: PocketText, clips: Clips
    ) -> None:
        self.config = config
        self.backbone = backbone.requires_grad_(True).train()
        self.text = text
        self.ema = Ema(backbone, config.ema)
        self._clips = clips
        self._random = torch.Generator().manual_seed(config.seed)
        optimizers = muon_and_adamw(backbone, lr=config.lr, matrix_lr=config.hidden_lr)
        super().__init__({"teacher": (backbone, optimizers)}, ema=self.ema, random=self._random)

    def advance(self) -> dict[str, float]:
        """One optimizer step; its loss, and the losses of the clearer and the noisier clips."""
        config = self.config
        rows = torch.randint(len(self._clips), (config.batch,), generator=self._random)
        device = self.backbone.device
        clean = self._clips.latents[rows].to(device).float()
        s = torch.rand(config.batch, generator=self._random)
        sigma = torch.tensor([shifted_sigma(float(x), config.shift) for x in s], device=device)
        noise = torch.randn(clean.shape, generator=self._random).to(device)
        noisy = add_noise(clean, noise, sigma[:, None, None, None, None])
        text = self.backbone.text_context(self._embeds(rows))
        flow = predict_flow(self.backbone, noisy, TIMESTEPS * sigma, text)
        errors = (flow - (noise - clean)).square().mean(dim=(1, 2, 3, 4))
        loss = errors.mean()
        loss.backward()
        norm = self.update("teacher", 1.0, config.rate(self.step))
        self.ema.update(self.step)
        return {"loss": float(loss.detach()), **_halves(errors.detach(), sigma), "norm": norm}

    @torch.no_grad()
    def _embeds(self, rows: Tensor) -> Tensor:
        """Embeddings [B, T, text_dim] of the second prompts, zeros where there shall be none."""
        draws = torch.rand(len(rows), 2, generator=self._random).tolist()
        wordings = [self._clips.captions[int(row)] for row in rows]
        prompts = [
            found[int(pick * len(found))][1]
            for found, (pick, _) in zip(wordings, draws, strict=True)
        ]
        dropped = torch.tensor(
            [drop < self.config.drop_share for _, drop in draws], device=self.backbone.device
        )
        return self.text.encode(prompts).masked_fill(dropped[:, None, None], 0.0)


def _halves(errors: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean errors on either side of the middle; a side without a clip is left out."""
    found: dict[str, float] = {}
    for name, chosen in (("clear", sigma < 0.5), ("noisy", sigma >= 0.5)):  # noqa: PLR2004
        if chosen.any():
            found[name] = float(errors[chosen].mean())
    return found
