"""Deliberate faults, each of which some test must notice; `plant_faults.py` tries them.

Grouped by file: the tests that guard it, then one row a fault: what a user would see, a text that
stands in the file exactly once, and what takes its place. Keep texts short, and follow the code
when it is rewritten: a text that is no longer found is an error, not a fault that was noticed.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One text of a file, and what it is replaced by."""

    what: str
    old: str
    new: str


class Room(NamedTuple):
    """Faults of one file, and the tests that must notice each of them."""

    file: str
    tests: tuple[str, ...]
    faults: tuple[Fault, ...]


FILM = ("tests/film", "tests/cli/test_continuing.py", "tests/cli/test_generate.py")
STREAM = ("tests/kvcache/test_plain_stream.py", "tests/engine/test_stream.py")

DOWNLOADS = ("tests/hub", "tests/cli/test_download.py")

ROOMS = (
    Room(
        "kernels/afstream_kernels/linear.py",
        ("tests/kernels/test_linear.py",),
        (
            Fault(
                "on a CPU the feed-forward takes the other form of GELU",
                "if runs_as_on_gpu(x) and not",
                "if not",
            ),
            Fault("packed weights take the other form of GELU", '"gelu", "tanh"', '"gelu", "none"'),
        ),
    ),
    Room(
        "src/afstream/model/linear.py",
        ("tests/engine/test_computed_once.py",),
        (
            Fault(
                "a weight that was changed still counts as it was",
                "packed.version == self.weight._version and ",
                "",
            ),
            Fault("packed maps cannot be trained", " or torch.is_grad_enabled()", ""),
        ),
    ),
    Room(
        "src/afstream/kvcache/positions.py",
        ("tests/kvcache",),
        (
            Fault(
                "the junction stands at another position",
                "- lengths.window_frames - lengths.chunk_frames",
                "- lengths.window_frames",
            ),
            Fault(
                "a query runs past the horizon",
                "min(lengths.horizon_frames - num_frames, frame)",
                "min(lengths.horizon_frames, frame)",
            ),
            Fault("a replaced sink stands at its own frames", "return offset", "return frame"),
        ),
    ),
    Room(
        "src/afstream/kvcache/memories/anchor.py",
        ("tests/kvcache",),
        (
            Fault(
                "a junction is seen one chunk late",
                "if frame >= newest + local",
                "if frame > newest + local",
            ),
            Fault(
                "a gap shows the junction before", 'self.junction == "gap" or previous', "previous"
            ),
            Fault(
                "the junction before is not held",
                "both = anchors.junction, anchors.previous_junction",
                "both = (anchors.junction,)",
            ),
            Fault(
                "the junction before is forgotten",
                "anchors.previous_junction, anchors.junction = anchors.junction, frame",
                "anchors.junction = frame",
            ),
        ),
    ),
    Room(
        "src/afstream/kvcache/memories/window.py",
        ("tests/kvcache",),
        (
            Fault(
                "the local window is one chunk longer",
                "stop - lengths.local_frames, anchors.floor",
                "stop - lengths.local_frames - chunk, anchors.floor",
            ),
            Fault(
                "a re-cache writes the sink anew",
                "if anchors.sink < first else first",
                "if anchors.sink > first else first",
            ),
        ),
    ),
    Room(
        "src/afstream/kvcache/memories/recache.py",
        ("tests/kvcache/test_plain_stream.py",),
        (
            Fault(
                "recapture keeps its sink",
                "anchors.sink = max(0, frame - self.lengths.window_frames)",
                "pass",
            ),
        ),
    ),
    Room(
        "src/afstream/kvcache/memories/rolling.py",
        ("tests/kvcache/test_plain_stream.py",),
        (Fault("a cleared memory shows what was before", "anchors.floor = frame", "pass"),),
    ),
    Room(
        "src/afstream/kvcache/cache.py",
        ("tests/kvcache",),
        (
            Fault(
                "a fork shares its slots' frames",
                "slot_frames=list(self.slot_frames)",
                "slot_frames=self.slot_frames",
            ),
            Fault(
                "a fork shares its anchors", "anchors=replace(self.anchors)", "anchors=self.anchors"
            ),
            Fault("a cut keeps the anchors", "self.anchors = self.policy.start()", "pass"),
        ),
    ),
    Room(
        "src/afstream/attention/sdpa.py",
        ("tests/kvcache/test_plain_stream.py",),
        (
            Fault(
                "gathered keys are shifted the wrong way",
                "tuple(-offset for offset in offsets)",
                "offsets",
            ),
        ),
    ),
    Room(
        "src/afstream/attention/block_table.py",
        ("tests/attention/test_block_table.py",),
        (
            Fault(
                "a block table is not filled anew when only distances change",
                "if self._filled != (slots, offsets):",
                "if self._filled is None or self._filled[0] != slots:",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/rollout.py",
        (*STREAM, "tests/engine/test_parity.py"),
        (
            Fault(
                "each step of a blend becomes a junction",
                "        if anchor:\n",
                "        if True:\n",
            ),
            Fault(
                "noise of seed 1, chunk 11 is that of seed 11, chunk 1",
                "{seed}:{chunk}",
                "{seed}{chunk}",
            ),
            Fault("a cut keeps latents for the next re-cache", "state.recent.clear()", "pass"),
            Fault("a cut goes on counting frames", "        state.frame = 0\n", ""),
            Fault(
                "noise is added for the step before",
                "noise[step + 1], sigmas[step + 1])",
                "noise[step + 1], sigmas[step])",
            ),
            Fault(
                "the context pass is at the last denoise step's time",
                "self.model.write_kv(clean, self.times[-1]",
                "self.model.write_kv(clean, self.times[-2]",
            ),
            Fault(
                "a re-cache is at the first denoise step's time",
                "self.model.write_kv(latents, self.times[-1]",
                "self.model.write_kv(latents, self.times[0]",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/scheduler.py",
        STREAM,
        (
            Fault(
                "a blend never arrives",
                "blend.done / blend.chunks)",
                "(blend.done - 1) / blend.chunks)",
            ),
            Fault(
                "of two cues on one chunk the first counts",
                "self._begin_segment(changes[-1]",
                "self._begin_segment(changes[0]",
            ),
            Fault(
                "the receipt of a superseded cue does not say so",
                "change is not changes[-1]",
                "False",
            ),
            Fault("a cut keeps the decoder's state", "state.decoder = None", "pass"),
            Fault("a cue's seed is ignored", "state.seed = receipt.seed", "pass"),
        ),
    ),
    Room(
        "src/afstream/engine/saved/states.py",
        ("tests/engine/test_saved.py",),
        (
            Fault("the decoder begins anew", "            decoder=decoder,\n", ""),
            Fault("a blend is forgotten", "            blend=blend,\n", ""),
            Fault("the first seed goes on", "seed=layout.seed,", "seed=layout.first_seed,"),
            Fault(
                "a chunk that was submitted is lost",
                "            pending=self._pending(content),\n",
                "",
            ),
            Fault(
                "nothing is left to re-cache",
                '        state.recent.extend(content.values["recent"])\n',
                "",
            ),
            Fault(
                "chunks that were yielded come again",
                "            pipeline.state.pending.clear()\n",
                "",
            ),
            Fault("another branch is taken for this one", " and layout.changes() == until", ""),
            Fault(
                "a state is saved in the middle of a chunk",
                "with torch.inference_mode(), self._pipeline.changing:\n            self._wait()",
                "with torch.inference_mode():\n            self._wait()",
            ),
        ),
    ),
    Room(
        "src/afstream/families/wan/autoencoder.py",
        ("tests/families/test_vae.py",),
        (
            Fault(
                "the scene's first frame is doubled in time",
                "start = 1 if past.begins else 0",
                "start = 0",
            ),
            Fault(
                "pairs of frames stand in the wrong order",
                '"b t h w (two c) -> b t two h w c"',
                '"b t h w (c two) -> b t two h w c"',
            ),
            Fault("enlarged frames are mirrored", "windows.flip(-2, -1)", "windows"),
        ),
    ),
    Room(
        "src/afstream/families/wan/vae_layers.py",
        ("tests/families/test_vae.py",),
        (
            Fault(
                "a bias that was still to be added is lost",
                "made.bias = self.conv2.bias + x.bias",
                "pass",
            ),
            Fault(
                "a state keeps more than its frames alive",
                "frames[:, -num_frames:].clone(memory_format=torch.contiguous_format)",
                "frames[:, -num_frames:]",
            ),
            Fault(
                "the state of another video is taken",
                "if before is None or (before.shape, before.dtype) != (wanted, x.dtype):",
                "if before is None:",
            ),
        ),
    ),
    Room(
        "kernels/afstream_kernels/triton/frames.py",
        ("tests/kernels/test_frames.py",),
        (
            Fault(
                "the last frames are those of the first",
                "(batch * PAST + frame - T)",
                "(batch * PAST)",
            ),
            Fault("past frames are zeros", "made = tl.load(past", "made = 0 * tl.load(past"),
        ),
    ),
    Room(
        "src/afstream/families/wan/vae.py",
        ("tests/families/test_vae.py",),
        (
            Fault(
                "latents are rounded before they are scaled",
                "latents.to(self.device, self._mean.dtype)",
                "latents.to(self.device, self.dtype)",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/saved/checks.py",
        ("tests/engine/test_saved.py",),
        (
            Fault(
                "the junction before the newest is lost",
                "replace(start, **scene.anchors)",
                'replace(start, **{**scene.anchors, "previous_junction": None})',
            ),
        ),
    ),
    Room(
        "src/afstream/engine/saved/nested.py",
        ("tests/engine",),
        (
            Fault(
                "tensors lie otherwise in memory",
                "return made.copy_(stored.reshape(-1).as_strided(tuple(shape), tuple(strides)))",
                "return stored.reshape(-1).as_strided(tuple(shape), tuple(strides)).contiguous()",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/safetensors.py",
        ("tests/engine/test_saved.py", "tests/checkpoints/test_safetensors.py"),
        (
            Fault(
                "a flipped bit is not noticed",
                "if digest.hexdigest() != said:",
                "if not said:",
            ),
        ),
    ),
    Room(
        "src/afstream/atomic.py",
        ("tests/test_atomic.py",),
        (
            Fault(
                "a power failure leaves an empty file", "            os.fsync(file.fileno())\n", ""
            ),
            Fault(
                "what is left of a failed write stays",
                "(file.close, temporary.unlink)",
                "(file.close,)",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/state.py",
        STREAM,
        (
            Fault("a fork shares a blend", "self.blend and replace(self.blend)", "self.blend"),
            Fault(
                "a fork shares recent latents", "recent=self.recent.copy()", "recent=self.recent"
            ),
        ),
    ),
    Room(
        "src/afstream/engine/schedule.py",
        ("tests/engine/test_parity.py", "tests/families/test_presets.py"),
        (
            Fault(
                "the schedule's shift is another one",
                "return shift * s / (1 + (shift - 1) * s)",
                "return shift * s / (1 + shift * s)",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/decode.py",
        (
            "tests/engine/test_scheduler.py",
            "tests/engine/test_decode.py",
            "tests/bench/test_measure.py",
        ),
        (
            Fault(
                "a chunk's model time counts the chunk before again",
                "model_ms=min(span_ms",
                "model_ms=max(span_ms",
            ),
            Fault(
                "a switch's time is in seconds",
                "1000 * (ended - asked_at)",
                "(ended - asked_at)",
            ),
            Fault("a fork's frames are the stream's own", ".numpy().copy()", ".numpy()"),
            Fault(
                "frames wait for the context pass",
                "self.stream.wait(pending.ready)",
                "self.stream.wait(pending.done)",
            ),
            Fault(
                "times are read before the chunk is done", "        self.stream.wait(done)\n", ""
            ),
            Fault("frames wait for the next chunk's work", "FIRST = -1", "FIRST = 0"),
        ),
    ),
    Room(
        "src/afstream/engine/cuda_graph.py",
        ("tests/attention/test_backends.py", "tests/engine/test_on_a_gpu.py"),
        (
            Fault(
                "a capture that failed is tried again for every chunk",
                " and self.failure is None",
                "",
            ),
            Fault(
                "a failed capture leaves its stream behind",
                "torch.cuda.stream(torch.cuda.current_stream(device)),",
                "",
            ),
            Fault(
                "an interrupt is taken for a failed capture",
                "raise error.__context__ from None",
                "pass",
            ),
            Fault("each graph has memory of its own", "pool=self._pool", "pool=None"),
            Fault("a graph does not hold what it reads", "results, call)", "results, print)"),
        ),
    ),
    Room(
        "kernels/afstream_kernels/linear.py",
        ("tests/kernels/test_compile.py",),
        (
            Fault("compiled values are copied", "if torch.compiler.is_compiling():", "if False:"),
            Fault("values go into other slots", "values[:, slot]", "values[:, 0]"),
        ),
    ),
    Room(
        "kernels/afstream_kernels/vendor.py",
        ("tests/kernels/test_attention.py",),
        (
            Fault(
                "torch's order of attention stays unsettled",
                "    functional.scaled_dot_product_attention(x, x, x)\n",
                "",
            ),
            Fault("cuDNN is put first where it is", "if cudnn_first", "if not cudnn_first"),
        ),
    ),
    Room(
        "src/afstream/engine/warm_up.py",
        ("tests/engine/test_warm_up.py",),
        (
            Fault(
                "a rehearsal stops before all is captured",
                "policy.lengths.window_chunks + 2",
                "policy.lengths.window_chunks",
            ),
            Fault("a rehearsal is thrown away", "prompts.spare = scene", "prompts.spare = None"),
        ),
    ),
    Room(
        "kernels/afstream_kernels/host.py",
        ("tests/engine/test_on_a_gpu.py",),
        (
            Fault("the host waits for what it sends", "non_blocking=True", "non_blocking=False"),
            Fault("small values are sent from pageable memory", "x = x.pin_memory()", "pass"),
            Fault("kernels run on the current GPU", "with on_device(x.device):", "if True:"),
        ),
    ),
    Room(
        "src/afstream/model/block_swap.py",
        ("tests/engine/test_on_a_gpu.py",),
        (
            Fault(
                "offloaded layers wait on the current GPU",
                "torch.cuda.current_stream(self._device).wait_event",
                "torch.cuda.current_stream().wait_event",
            ),
        ),
    ),
    Room(
        "src/afstream/engine/pipeline.py",
        ("tests/engine/test_decode.py",),
        (
            Fault("three chunks are in flight", "return 2 if self.ahead", "return 3 if self.ahead"),
            Fault(
                "a chunk that was broken off is decoded after itself",
                "state.decoder, watch)",
                "state.decoder, watch)\n        state.decoder = decoder",
            ),
        ),
    ),
    Room(
        "src/afstream/model/block_swap.py",
        ("tests/engine/test_block_swap.py",),
        (
            Fault(
                "offloaded layers are the first ones, not spread",
                "index * total // count for index",
                "index for index",
            ),
            Fault("a layer's weights are not fetched", "            self._fetch(number)\n", ""),
        ),
    ),
    Room(
        "src/afstream/geometry.py",
        ("tests/timeline/test_timeline_plan.py", "tests/timeline/test_timeline_clocks.py"),
        (
            Fault(
                "a cue takes effect before its time",
                "return ceil(self.format.latent_frames(video_frame) / self.chunk_frames)",
                "return self.format.latent_frames(video_frame) // self.chunk_frames",
            ),
            Fault(
                "a scene's first latent frame is as long as any",
                "return 1 + self.temporal_stride * (latent_frames - 1)",
                "return self.temporal_stride * latent_frames",
            ),
        ),
    ),
    Room(
        "src/afstream/timeline/plan.py",
        ("tests/timeline/test_timeline_plan.py",),
        (
            Fault(
                "a relative time counts from where the cue before took effect",
                "(previous.requested_s if start.relative",
                "(previous.effective_s if start.relative",
            ),
            Fault("a rounding error costs a chunk", "seconds = round(seconds, DIGITS)", "pass"),
            Fault(
                "a blend is shorter than was asked for",
                "return ceil(round(blend_s",
                "return int(round(blend_s",
            ),
        ),
    ),
    Room(
        "src/afstream/timeline/lookalikes.py",
        ("tests/timeline/test_lookalikes.py",),
        (
            Fault(
                "a decade is read as a time",
                "(?!{DECADE})(?P<time>{SECONDS})",
                "(?P<time>{SECONDS})",
            ),
            Fault(
                "a dash between time and prompt is shown",
                "if match := SEPARATOR.match(prompt):",
                "if (match := SEPARATOR.match(prompt)) and not prompt:",
            ),
        ),
    ),
    Room(
        "cli/afstream_cli/streams.py",
        ("tests/cli/test_streams.py",),
        (
            Fault(
                "a film ends with the reader of its progress",
                '''        """Pass over it."""
        return 0''',
                '''        """Pass over it."""
        raise error''',
            ),
            Fault("a closed stream's number goes to the video", "    occupy()\n", ""),
        ),
    ),
    Room(
        "cli/afstream_cli/source.py",
        ("tests/cli/test_stdin.py",),
        (
            Fault(
                "a thread still encodes prompts when Python exits",
                "        live.join(None if CAN_END else UNENDED_WAIT_S)\n",
                "",
            ),
        ),
    ),
    Room(
        "cli/afstream_cli/interruption.py",
        ("tests/cli/test_signals.py",),
        (
            Fault(
                "a run under nohup ends with its terminal",
                "before[number] is not signal.SIG_IGN",
                "before[number] is not None",
            ),
        ),
    ),
    Room(
        "src/afstream/timeline/live.py",
        ("tests/timeline/test_timeline_live.py",),
        (
            Fault(
                "a relative time of a typed cue counts from 0",
                "Moment(now_s + moment.in_seconds(self.clock))",
                "Moment(moment.in_seconds(self.clock))",
            ),
        ),
    ),
    Room(
        "src/afstream/video/muxing.py",
        ("tests/video/test_video.py", "tests/video/test_going_on.py"),
        (
            Fault("every fragment begins at 0", "first_frame + index", "index"),
            Fault("a film carries the date on which it was made", "+bitexact", "+flush_packets"),
        ),
    ),
    Room(
        "src/afstream/video/growing.py",
        (
            "tests/video/test_video.py",
            "tests/video/test_going_on.py",
            "tests/video/test_foreign_files.py",
        ),
        (
            Fault(
                "a film that something else has cut goes on",
                "        self._refuse_changed()\n        packets",
                "        packets",
            ),
            Fault("half a fragment stays when the disk is full", "file.truncate()", "pass"),
            Fault(
                "a film that goes on keeps what comes after its past",
                "file.truncate(source.offset_of(past.frames))",
                "file.truncate(source.end)",
            ),
        ),
    ),
    Room(
        "src/afstream/video/png_folder.py",
        ("tests/video/test_foreign_files.py",),
        (
            Fault(
                "pictures of others are replaced",
                "        if not is_own(path):",
                "        if False:",
            ),
            Fault("a picture without its end counts", "not is_whole(path)", "False"),
        ),
    ),
    Room(
        "src/afstream/video/files.py",
        ("tests/video/test_foreign_files.py", "tests/video/test_video.py"),
        (
            Fault("checking a path removes the file there", "os.O_EXCL", "0"),
            Fault("a part of a picture counts as all of it", "while rest:", "if rest:"),
        ),
    ),
    Room(
        "src/afstream/video/writer.py",
        ("tests/video/test_video.py", "tests/video/test_foreign_files.py"),
        (
            Fault("frames are not counted", "self.frames = encoder.frames", "self.frames += 1"),
            Fault("a film is replaced unasked", "and taken(path)", "and False"),
            Fault("a failed film is written to again", " and not self._failed:", ":"),
            Fault(
                "what the muxer held back counts as kept",
                "self._encoder.kept() if self._encoder else 0",
                "self._encoder.frames if self._encoder else 0",
            ),
        ),
    ),
    Room(
        "src/afstream/video/stride_sample.py",
        ("tests/video/test_sheet.py",),
        (
            Fault(
                "a sheet's pictures crowd at the end",
                "self._kept = self._kept[::2]",
                "del self._kept[0]",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/merge.py",
        ("tests/checkpoints/test_checkpoints.py", "tests/checkpoints/test_lora_names.py"),
        (
            Fault(
                "a LoRA is merged in bfloat16",
                "merged = weight.to(wide)",
                "merged = weight",
            ),
            Fault(
                "a LoRA on float64 is merged in float32",
                "torch.float64 if weight.dtype == torch.float64 else torch.float32",
                "torch.float32",
            ),
            Fault(
                "only the last of several LoRAs counts",
                "one.added(merged, base, scale)",
                "one.added(base, base, scale)",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/read.py",
        ("tests/checkpoints/test_lora_names.py", "tests/checkpoints/test_lora_strength.py"),
        (
            Fault(
                "a LoRA's alpha is ignored",
                "one._replace(factor=factors[name]) if one.is_scaled",
                "one if one.is_scaled",
            ),
            Fault(
                "a LoRA that calls itself a DoRA is merged without lengths",
                "one.is_scaled and one.dora is None",
                "one.is_scaled and one is None",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/kinds.py",
        ("tests/checkpoints/test_lora_names.py", "tests/checkpoints/test_lora_kinds.py"),
        (
            Fault(
                "a difference is added whole, whatever the scale",
                "self.delta.added(weight, scale * self.factor)",
                "self.delta.added(weight, self.factor)",
            ),
            Fault(
                "a DoRA's norm sees the LoRAs before it",
                "self.dora.added(self.delta, base, self.factor, scale) + (weight - base)",
                "self.dora.added(self.delta, weight, self.factor, scale)",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/dora.py",
        ("tests/checkpoints/test_lora_kinds.py",),
        (
            Fault(
                "PEFT's scale of a DoRA leads from the weight to the changed one",
                "factor * scale if self.is_peft else factor",
                "factor",
            ),
            Fault(
                "the norm of a DoRA is that of the weight before",
                "vector_norm(changed, dim",
                "vector_norm(weight, dim",
            ),
            Fault(
                "lengths of columns are taken for those of rows",
                "Dora(magnitude, int(not is_row), False)",
                "Dora(magnitude, 0, False)",
            ),
            Fault("lengths of a square are guessed", "if rows == columns:", "if not rows:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/kronecker.py",
        ("tests/checkpoints/test_lora_kinds.py",),
        (
            Fault(
                "a LoKr is the other way round",
                "torch.kron(first, second.contiguous())",
                "torch.kron(second.contiguous(), first)",
            ),
            Fault(
                "a LoKr whose first matrix is a product has no rank",
                '("lokr_w2_b", "lokr_w1_b")',
                '("lokr_w2_b",)',
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/hadamard.py",
        ("tests/checkpoints/test_lora_kinds.py",),
        (
            Fault(
                "a LoHa is the sum of its products",
                '_product(parts, "1") * _product',
                '_product(parts, "1") + _product',
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/delta.py",
        ("tests/checkpoints/test_lora_kinds.py",),
        (Fault("a core's axes are swapped", "ij...,io,jn->on", "ji...,io,jn->on"),),
    ),
    Room(
        "src/afstream/checkpoints/lora/strength.py",
        ("tests/checkpoints/test_lora_strength.py",),
        (
            Fault(
                "rsLoRA is merged as plain LoRA",
                "math.sqrt(self.rank) if self.is_rslora else self.rank",
                "self.rank",
            ),
            Fault(
                "a layer's own alpha wins silently over a header that says another",
                "[*said, *trainer], path",
                "said[:1], path",
            ),
            Fault(
                "a rank that the matrices do not have is passed over",
                "_agreed([*said, *ranks], path",
                "_agreed([*said, *ranks][:1], path",
            ),
            Fault(
                "a pattern of no layer is passed over",
                "if not any(map(pattern.match, spelled))",
                "if not spelled",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/settings.py",
        ("tests/checkpoints/test_lora_strength.py",),
        (
            Fault(
                "alpha_pattern is ignored",
                'self._by_pattern("alpha_pattern", layer) or self.alphas',
                "self.alphas",
            ),
            Fault(
                "a word of strength that is not known is passed over",
                "elif _speaks(word):",
                "elif not word:",
            ),
            Fault(
                "a critic's alpha counts",
                "elif not OF_OTHERS.search(name):",
                "else:",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/names.py",
        ("tests/checkpoints/test_lora_names.py",),
        (
            Fault(
                "diffusers' words with underscores are unknown",
                "for their_word, own_word in theirs.items()",
                "for their_word, own_word in ()",
            ),
            Fault(
                "kohya's layers are all in the first block",
                "blocks.{int(block[1])}.{found}",
                "blocks.0.{found}",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/lora/file.py",
        ("tests/checkpoints/test_lora_names.py", "tests/checkpoints/test_lora_strength.py"),
        (
            Fault("a layer given twice counts once", "if key in taken:", "if not key:"),
            Fault(
                "PEFT's settings beside its file are ignored",
                "if path.stem == PEFT_STEM:\n            file.settings += said",
                "if path.stem == PEFT_STEM:\n            file.beside += ()",
            ),
        ),
    ),
    Room(
        "src/afstream/text.py",
        ("tests/test_text.py",),
        (
            Fault("a C1 control reaches a terminal", r"\x7f-\x9f", r"\x7f"),
            Fault(
                "a prompt may turn the text round", "if not one[0].isspace()", "if one[0] < '\x80'"
            ),
        ),
    ),
    Room(
        "src/afstream/bounded.py",
        ("tests/test_bounded.py",),
        (
            Fault("JSON may be nested without end", "> MAX_DEPTH:", "> MAX_DEPTH * 99:"),
            Fault("brackets in texts count", 'STRING.sub("", plain)', "plain"),
            Fault("a file of any size is read", "file.read(most_bytes + 1)", "file.read()"),
            Fault("the last of two values counts", "if len(found) < len(pairs):", "if False:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/finite.py",
        ("tests/checkpoints/test_finite.py",),
        (
            Fault("only the greatest value is looked at", "wide.aminmax()", "[wide.max()]"),
            Fault(
                "one bad weight of several is let through",
                "< bound).all(1)",
                "< bound).any(1)",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/formats.py",
        ("tests/checkpoints/test_formats.py",),
        (
            Fault(
                "JSON with a brace in the right place is taken for safetensors",
                " and not TEXT.issuperset(head[:HEADER_AT])",
                "",
            ),
            Fault(
                "a pointer is called a text",
                "if head.startswith(beginning):",
                'if head.startswith(beginning) and beginning[:1] != b"v":',
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/quantised.py",
        ("tests/checkpoints/test_quantised.py",),
        (
            Fault(
                "flat scales are taken for columns",
                ".reshape(-1, groups, 1)",
                ".reshape(1, groups, -1)",
            ),
            Fault(
                "groups of a row share one scale",
                "groups = max(1, scale.numel() // len(wide))",
                "groups, factor = 1, factor.flatten()[: len(wide)]",
            ),
            Fault("lost scales are not noticed", "if is_marked and not scales:", "if False:"),
            Fault("a rotated weight is read as it is", "or unknown:", "or False:"),
            Fault(
                "blocks are taken by columns",
                "zip(wide.split(BLOCK), factor,",
                "zip(wide.split(BLOCK, 1), factor,",
            ),
            Fault("a second scale wins", "if own in scales:", "if False:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/stored.py",
        ("tests/checkpoints/test_gguf.py",),
        (
            Fault(
                "weights are restored in bfloat16",
                "return self.restore(device)",
                "return self.restore(device).bfloat16()",
            ),
            Fault("opening on meta unpacks weights", 'if device.type == "meta"', "if 0"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/gguf_files.py",
        ("tests/checkpoints/test_gguf.py",),
        (
            Fault(
                "shapes stay as GGUF has them",
                "Packed(tuple(reversed(sizes))",
                "Packed(tuple(sizes)",
            ),
            Fault("tensors may share their values", "if one.start < end:", "if False:"),
            Fault(
                "a former shape is not restored",
                "if shape := settings.get(ORIGINAL_SHAPE + name):",
                "if shape := None:",
            ),
            Fault(
                "gate and input of the feed-forward are swapped",
                '"ffn_gate": "ffn.gate.0",\n    "ffn_up": "ffn.fc1",',
                '"ffn_gate": "ffn.fc1",\n    "ffn_up": "ffn.gate.0",',
            ),
            Fault("any model's file is read", "if architecture not in (*WAN, *TEXT):", "if False:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/unmerged.py",
        ("tests/checkpoints/test_unmerged.py",),
        (
            Fault(
                "a LoRA without an alpha is merged",
                "if not all(strength.source",
                "if False and not all(strength.source",
            ),
            Fault(
                "the config beside the file is not read",
                "file.settings += file.beside",
                "file.settings += []",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/torch_files.py",
        ("tests/checkpoints/test_formats.py",),
        (
            Fault("pickles may be of any size", "if self._left < 0:", "if False:"),
            Fault(
                "old pickles may call what fills memory",
                "_check_pickle(file.peek_pickles())",
                "file.peek_pickles()",
            ),
            Fault("an object is not named", "found[1] if found else", '"" if found else'),
        ),
    ),
    Room(
        "src/afstream/checkpoints/shards.py",
        ("tests/checkpoints/test_shards.py", "tests/checkpoints/test_quantised.py"),
        (
            Fault(
                "a scale in another shard is lost",
                "return dequantised(weights, paths[0].parent)",
                "return weights",
            ),
            Fault(
                "a missing shard is not noticed",
                "if absent:",
                "if False:",
            ),
            Fault("variants are mixed", "if len(models) > 1:", "if False:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/layouts/entering.py",
        ("tests/checkpoints/test_parts.py",),
        (
            Fault(
                "the main revision of a hub's cache counts for nothing",
                "if main.parent == snapshots and main.is_dir():",
                "if False:",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/layouts/base.py",
        ("tests/checkpoints/test_parts.py",),
        (
            Fault(
                "one of several files is taken",
                "return found if len(found) > 1 else ()",
                "return ()",
            ),
        ),
    ),
    Room(
        "src/afstream/checkpoints/wrappers.py",
        ("tests/checkpoints/test_wrappers.py",),
        (
            Fault("one of two sets is taken", "if len(sets) > 1:", "if False:"),
            Fault("one of two weights is taken", "if other != name:", "if False:"),
        ),
    ),
    Room(
        "src/afstream/checkpoints/students.py",
        ("tests/checkpoints/test_checkpoints.py", "tests/checkpoints/test_wrappers.py"),
        (
            Fault(
                "the last weights are taken, not their average",
                'entry = GENERATOR if note else next(iter(entries), "")',
                'entry = GENERATOR if GENERATOR in entries else next(iter(entries), "")',
            ),
            Fault("a partial average is taken", "if whole <= average:", "if True:"),
            Fault("buffers count as weights", "if name.endswith(PARAMETERS)}", "if name}"),
        ),
    ),
    Room(
        "src/afstream/families/presets.py",
        ("tests/families/test_presets.py",),
        (
            Fault(
                "--junction is ignored with a preset",
                "return policy if config.junction is None else",
                "return policy if config.junction is None or found else",
            ),
        ),
    ),
    Room(
        "src/afstream/memory_plan/report.py",
        ("tests/memory_plan/test_estimate.py",),
        (
            Fault(
                "no allowance between tensors",
                "PASSING_SLACK = 0.01, 0.1",
                "PASSING_SLACK = 0.0, 0.0",
            ),
        ),
    ),
    Room(
        "src/afstream/memory_plan/estimate.py",
        ("tests/memory_plan/test_estimate.py", "tests/memory_plan/test_wan.py"),
        (
            Fault("prompts are counted once", "kept = 2 * known or", "kept = known or"),
            Fault(
                "offloaded layers are counted on the GPU",
                "model.backbone_bytes - away + min",
                "model.backbone_bytes + min",
            ),
            Fault(
                "a junction's slots are not among the anchors",
                "(sink + junctions)\n",
                "(sink)\n",
            ),
        ),
    ),
    Room(
        "src/afstream/bench/meter.py",
        ("tests/bench/test_measure.py",),
        (
            Fault(
                "decoding is counted as denoising",
                'BACKBONE_PARTS = ("denoise", "recache", "context")',
                'BACKBONE_PARTS = ("denoise", "decode", "context")',
            ),
            Fault("the warm-up is timed", "if chunk.warm_up:", "if False:"),
        ),
    ),
    Room(
        "benchmarks/pocket_oracle/motion.py",
        ("tests/bench/test_pocket_oracle.py",),
        (Fault("the oracle's threshold of drifting", "DRIFT_SHARE = 0.58", "DRIFT_SHARE = 0.64"),),
    ),
    Room(
        "src/afstream/training/dmd/trainer.py",
        ("tests/training/test_dmd.py",),
        (
            Fault(
                "the moving average begins one update late",
                "if updates <= self.config.ema_from:",
                "if updates <= self.config.ema_from + 1:",
            ),
            Fault(
                "student and critic do not decay",
                "config.betas, config.weight_decay)",
                "config.betas, 0.0)",
            ),
            Fault(
                "the teacher reads what the student reads",
                "clean(models.teacher, window.told)",
                "clean(models.teacher, window.embeds)",
            ),
            Fault(
                "full prompts are read though the recipe does not want them",
                "if config.full_prompts else None",
                "if True else None",
            ),
        ),
    ),
    Room(
        "src/afstream/training/pocket/retention_trainer.py",
        ("tests/training/test_retention.py",),
        (
            Fault("the guide is not told more", "lesson.full, learned", "lesson.read, learned"),
            Fault(
                "the student's own past runs under the old caption",
                "rollout.switch(state, second)",
                "rollout.switch(state, first)",
            ),
            Fault(
                "the chunks are not those behind the switch",
                "behind = range(at,",
                "behind = range(0,",
            ),
            Fault(
                "captions leave out what changes", "- after.changes(before) - untold", "- untold"
            ),
            Fault(
                "a resumed run draws other steps", '"retention", self.step', '"retention", id(self)'
            ),
        ),
    ),
    Room(
        "src/afstream/training/pocket/student.py",
        ("tests/training/test_retention.py", "tests/training/test_teacher_forcing.py"),
        (
            Fault(
                "both prompts are read at once",
                "torch.cat([~second.expand",
                "torch.cat([second.expand(-1, length) | ~second.expand",
            ),
            Fault(
                "one memory's layout serves all", "key = policy.name, tuple", "key = None, tuple"
            ),
        ),
    ),
    Room(
        "src/afstream/training/dmd/losses.py",
        ("tests/training/test_dmd.py", "tests/engine/test_parity.py"),
        (
            Fault("timesteps are not kept in bounds", "(20.0, 980.0)", "(0.0, 1000.0)"),
            Fault(
                "guidance counts from the other end",
                "return cond + guidance",
                "return uncond + guidance",
            ),
        ),
    ),
    Room(
        "src/afstream/training/dmd/sequences.py",
        ("tests/training/test_rollouts.py", "tests/training/test_parallel.py"),
        (
            Fault(
                "the loss counts the frames of the window before",
                "counts[: plan.overlap_frames if start else 0] = False",
                "counts[:0] = False",
            ),
            Fault(
                "a sequence's switch comes a window late",
                "and frame >= self._switch_frame",
                "and frame > self._switch_frame",
            ),
            Fault(
                "teacher and critic are not told what a prompt leaves out",
                "self._told if self._is_second(start)",
                "self._embeds[1] if self._is_second(start)",
            ),
        ),
    ),
    Room(
        "src/afstream/training/trainer/optim.py",
        ("tests/training/test_optim.py", "tests/training/test_watched_run.py"),
        (
            Fault("Muon does not decay", "lr=matrix_lr, weight_decay=0.01", "lr=matrix_lr"),
            Fault("AdamW does not decay", "(0.9, 0.98), 0.01)", "(0.9, 0.98), 0.0)"),
        ),
    ),
    Room(
        "src/afstream/training/trainer/optim.py",
        ("tests/training/test_parallel.py", "tests/training/test_watched_run.py"),
        (
            Fault("gradients are summed over processes", "weight.grad /= processes.count", "pass"),
            Fault("an update without numbers is made", "if math.isfinite(total):", "if True:"),
        ),
    ),
    Room(
        "src/afstream/training/trainer/checkpoints.py",
        ("tests/training/test_checkpoints.py",),
        (
            Fault(
                "the oldest checkpoint is gone on from",
                "sorted(named, key=_step, reverse=True)",
                "sorted(named, key=_step)",
            ),
        ),
    ),
    Room(
        "src/afstream/training/trainer/log.py",
        ("tests/training/test_checkpoint_content.py",),
        (Fault("a resumed run logs steps twice", "and at <= step]", "and at >= 0]"),),
    ),
    Room(
        "src/afstream/training/trainer/checkpoints.py",
        ("tests/training/test_checkpoint_content.py",),
        (
            Fault(
                "torn checkpoints push out new ones",
                "for folder in (*later, *found[len(later) + KEPT :], *aside):",
                "for folder in found[KEPT:]:",
            ),
            Fault(
                "weights that are not finite are saved",
                "if lost := self._lost(tensors):",
                "if lost := None:",
            ),
            Fault(
                "torch's own reader unpickles",
                "storage_reader=PlainReader(folder, manifest)",
                "checkpoint_id=folder",
            ),
            Fault("checksums are not looked at", "if manifest and not fault:", "if False:"),
            Fault(
                "a checkpoint that is not finite is gone on from",
                "if not fault and (lost := self._lost(tensors)):",
                "if False:",
            ),
            Fault(
                "a full disk leaves half a checkpoint",
                "shutil.rmtree(partial, ignore_errors=True)",
                "pass",
            ),
        ),
    ),
    Room(
        "src/afstream/training/trainer/manifest.py",
        ("tests/training/test_checkpoint_content.py",),
        (
            Fault("a cut file passes", "!= file.bytes:", "> file.bytes:"),
            Fault("a bit of the list turns unseen", "if said != _sum(content):", "if not said:"),
        ),
    ),
    Room(
        "src/afstream/training/trainer/loop.py",
        ("tests/training/test_watched_run.py",),
        (
            Fault(
                "checkpoints are written while steps come out without numbers",
                "if due and (not in_row or trainer.step == steps)",
                "if due",
            ),
            Fault(
                "a ruined checkpoint is gone on from",
                "for text in store.set_aside(",
                "for text in str(",
            ),
        ),
    ),
    Room(
        "src/afstream/training/runs/opening.py",
        ("tests/training/test_claimed_runs.py",),
        (
            Fault(
                "a changed recipe is taken up in silence",
                "if differing and not accept:",
                "if False:",
            ),
            Fault(
                "two runs share a folder",
                'held.enter_context(hold(run.folder, what="folder with --out"))',
                "pass",
            ),
            Fault(
                "a finished stage is said to have changed",
                '"finished": stage.is_done}',
                '"finished": False}',
            ),
        ),
    ),
    Room(
        "src/afstream/lock.py",
        ("tests/test_lock.py",),
        (
            Fault(
                "a lock is made of what is no file",
                'if kind_at(goal) not in ("", FILE):',
                "if False:",
            ),
            Fault("a link is another lock", "os.path.realpath(path)", "path"),
        ),
    ),
    Room(
        "kernels/afstream_kernels/reference.py",
        ("tests/kernels/test_reference.py", "tests/kvcache/test_plain_stream.py"),
        (
            Fault("rotations of another base", "ROPE_BASE = 10000.0", "ROPE_BASE = 1000.0"),
            Fault(
                "scores are scaled twice",
                "scale = 1 / math.sqrt(q.shape[-1])",
                "scale = 1 / q.shape[-1]",
            ),
            Fault(
                "LayerNorm's scale begins at 0",
                "gain, width = 1 + scale",
                "gain, width = scale",
            ),
            Fault(
                "a norm leaves its eps out",
                "rms_norm(x, weight.shape, weight, eps)",
                "rms_norm(x, weight.shape, weight, 0.0)",
            ),
        ),
    ),
    Room(
        "kernels/afstream_kernels/triton/attention.py",
        ("tests/kernels/test_attention.py",),
        (
            Fault(
                "rows past a slot's end are seen",
                "if row + BLOCK_N > length:",
                "if row > length:",
            ),
            Fault(
                "a carried query is shifted to the slot before",
                "sin, entry + 1, S,",
                "sin, entry, S,",
            ),
        ),
    ),
    Room(
        "kernels/afstream_kernels/triton/tiles.py",
        ("tests/kernels/test_cross_compile.py",),
        (
            Fault(
                "Hopper's matrix instructions wait for each other",
                "descriptors=tma, carried=carried",
                "descriptors=tma",
            ),
        ),
    ),
    Room(
        "kernels/afstream_kernels/triton/merge.py",
        ("tests/kernels/test_attention.py",),
        (
            Fault(
                "a merge of split keys forgets the peak",
                "weight = tl.exp(one - new_peak)",
                "weight = tl.exp(one)",
            ),
        ),
    ),
    Room(
        "src/afstream/film/record.py",
        ("tests/cli/test_generate.py", "tests/cli/test_live.py"),
        (
            Fault(
                "a record names the cue that was superseded",
                "receipt = chunk.receipts[-1]",
                "receipt = chunk.receipts[0]",
            ),
        ),
    ),
    Room(
        "src/afstream/film/film.py",
        FILM,
        (
            Fault(
                "the record comes after the first frame",
                "self._begin(chunk.index + 1)",
                "self._begun = True",
            ),
            Fault(
                "a record counts frames that are not on the disk",
                "        if self.writer.frames:\n            self.writer.sync()",
                "",
            ),
            Fault(
                "a state counts frames that are not on the disk",
                "        self.writer.sync()\n        try:\n            self.states",
                "        try:\n            self.states",
            ),
            Fault(
                "a film that goes on gets a new name",
                "(kept and kept.run) or run_name",
                "run_name",
            ),
            Fault("an earlier film's sheet stays", "self.files.remove_stale()", "pass"),
            Fault("states of other frames stay", "self.states.keep_until(self.chunks)", "pass"),
            Fault(
                "a film without a frame has not failed",
                "if not self._begun:\n            if state",
                "if not self.writer.frames:\n            if state",
            ),
            Fault(
                "a cue that was typed is lost with its frames",
                "elif chunk.receipts and (self.record.live",
                "elif 0 and (self.record.live",
            ),
            Fault(
                "a disk without room for a state ends the film",
                'self._warn(f"the film goes on without a saved state: {error}")',
                "raise",
            ),
        ),
    ),
    Room(
        "src/afstream/film/states.py",
        FILM,
        (
            Fault(
                "later states are kept",
                "if at > chunk:\n                with",
                "if 0:\n                with",
            ),
            Fault(
                "a damaged state ends the resume",
                'warn(f"{error}; the state before it is used")',
                "raise",
            ),
            Fault(
                "states are saved all the time", "max(EVERY_S, self.cost_s(stream) / SHARE)", "0"
            ),
            Fault("states pile up", "self.found[KEPT:]", "()"),
            Fault(
                "a state from beyond the goal is used",
                "if at > chunk:\n                cont",
                "if 0:\n                cont",
            ),
        ),
    ),
    Room(
        "src/afstream/film/found.py",
        FILM,
        (
            Fault(
                "a record goes on with another run's video",
                "read_tags(video).get(RUN) != read.run",
                "0",
            ),
            Fault("a film goes on from another film's state", "return made == [", "return [] != ["),
            Fault("cues beyond the kept chunks stay", " if cue.chunk < chunks]", "]"),
        ),
    ),
    Room(
        "src/afstream/film/files.py",
        FILM,
        (
            Fault("a film is replaced unasked", "if taken(video) and not overwrite", "if 0"),
            Fault(
                "a foreign file is taken for a record", "if is_ours and not is_ours(path)", "if 0"
            ),
            Fault("two runs write one film", 'hold(shared, what="output")', "ExitStack()"),
            Fault("another film's states are replaced", "and any(folder.iterdir())", "and 0"),
            Fault(
                "a record takes the states' place", '"the folder of saved states": self.states,', ""
            ),
        ),
    ),
    Room(
        "cli/afstream_cli/making.py",
        FILM,
        (Fault("a film goes on with other threads", "torch.set_num_threads(count)", "pass"),),
    ),
    Room(
        "src/afstream/families/pocket/family.py",
        ("tests/cli/test_generate.py",),
        (Fault("a dry run knows every word", "text.read(prompt)", "pass"),),
    ),
    Room(
        "src/afstream/stream.py",
        ("tests/engine/test_stream.py",),
        (
            Fault(
                "a stream is opened unchecked",
                "checked = check(replace(_config_of(model), **settings))",
                "checked = Checked(config=replace(_config_of(model), **settings), model=None,"
                " geometry=None, clock=None, estimate=None)",
            ),
        ),
    ),
    Room(
        "src/afstream/families/wan/parts.py",
        ("tests/cli/test_checks.py",),
        (Fault("inspect skips tiny VAEs", '"tiny VAE": _decoder,', ""),),
    ),
    Room(
        "src/afstream/checking.py",
        ("tests/cli/test_checks.py",),
        (
            Fault("a prompt of a timeline is not checked", "_check_cues(model, cues)", "pass"),
            Fault(
                "a word's place is not told",
                "raise cue.place.error(str(error)) from error",
                "raise",
            ),
            Fault("too many layers are found late", "pick_layers(spec.offload", "(lambda *_: 0)(0"),
            Fault("what inspect cannot open is not told", "faults.append(str(error))", "pass"),
        ),
    ),
    Room(
        "src/afstream/hub/catalogue.py",
        ("tests/hub/test_catalogue.py", "tests/families/test_presets.py"),
        (
            Fault("a student is fetched by another name", "self_forcing_dmd.pt", "self_forcing.pt"),
            Fault("the frame-wise file is taken", "if not self.needs_folder", "if 1"),
            Fault("the parts lack the tokenizer", '"spiece.model",', ""),
            Fault("the backbone always comes", "if with_backbone else ()", "if 1 else ()"),
        ),
    ),
    Room(
        "src/afstream/hub/client.py",
        DOWNLOADS,
        (
            Fault(
                "the newest revision is fetched",
                "revision=repository.revision, endpoint",
                "endpoint",
            ),
            Fault("a broken connection ends it", "or into.tell() <= have", "or 1"),
            Fault("another repository is fetched unasked", "if info.id != name", "if 0"),
            Fault("a mirror is not asked", 'os.environ.get("HF_ENDPOINT", "")', '""'),
            Fault("a page is taken for the hub", "if info.sha is None or not all(", "if not ("),
            Fault("a card's own licence is not told", "own or usual", "usual"),
        ),
    ),
    Room(
        "src/afstream/hub/download.py",
        DOWNLOADS,
        (
            Fault(
                "a damaged file is kept",
                "if _digest(one.part, one, tell) != one.remote.digest:",
                "if 0:",
            ),
            Fault(
                "another file passes for the published one",
                "if _digest(one.goal, one, tell) != one.remote.digest:",
                "if 0:",
            ),
            Fault("a full disk is begun with", "if needed > free", "if 0"),
            Fault("a download begins anew", 'one.part.open("ab")', 'one.part.open("wb")'),
            Fault("a part of another file is gone on with", ".{self.remote.digest[:SHOWN]}", ""),
            Fault(
                "a file in the way is replaced", "if kind_at(one.goal) and not one.there", "if 0"
            ),
            Fault(
                "two runs write one folder",
                "hold(plan.folder, what",
                "hold(plan.folder.parent, what",
            ),
            Fault("a part too long is whole", "if have > one.remote.num_bytes", "if 0"),
            Fault("nothing is written down", "write_text(plan.record, _record(plan))", "pass"),
        ),
    ),
    Room(
        "cli/afstream_cli/download.py",
        DOWNLOADS[1:],
        (
            Fault("nobody is asked", "if plan.missing_bytes and not yes", "if 0"),
            Fault("every answer is yes", 'not in ("y", "yes")', "in ()"),
            Fault("a pipe is asked", "if not sys.stdin.isatty()", "if 0"),
            Fault("a dry run fetches", "if dry_run", "if 0"),
            Fault(
                "control characters reach the terminal",
                "table.add_row(printable(name), printable(value))",
                "table.add_row(name, value)",
            ),
        ),
    ),
)
