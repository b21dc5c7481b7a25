#!/usr/bin/env python3
"""Trains the demo model: a real, very small Qwen3-VL that reads synthetic traffic clips.

The architecture is Hugging Face's Qwen3VLForConditionalGeneration, unchanged:
ViT with 2x16x16 patches and 2x2 merging, DeepStack, interleaved M-RoPE, and a
text timestamp `<t seconds>` before every temporal patch.  All training data is
drawn on the fly by traffic_scene.py; nothing is downloaded.

  python3 train_demo_model.py --out model --minutes 45              # CPU
  python3 train_demo_model.py --out model --minutes 30 --device cuda --batch 256

How it learns quickly:
 * the patch embedding starts from a low-frequency DCT basis of the two frames;
 * a training-only linear head on the ViT is supervised densely (vehicle here?
   displacement between the two frames, colour, type) and is then discarded;
 * one clip is shared by several question/answer branches, which see the clip
   but not each other (block mask), as if each were its own conversation;
 * hidden matrices are updated by Muon, everything else by AdamW;
 * stages: vision only -> 1-2 vehicles, short -> 1-4 vehicles -> longer, larger.

Needs torch, transformers >= 5.17, tokenizers, numpy, safetensors.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from demo_tokenizer import CHAT_TEMPLATE, SPECIAL, SYSTEM, build_tokenizer
from traffic_scene import COLOURS, QUESTIONS, TYPES, Options, answer, make_clip


# ---------------------------------------------------------------------- model
def build_config(tok):
    from transformers import Qwen3VLConfig
    tid = tok.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=len(tok), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, hidden_act="silu", max_position_embeddings=4096, rms_norm_eps=1e-6,
            attention_bias=False, tie_word_embeddings=True, bos_token_id=tid("<|endoftext|>"),
            eos_token_id=tid("<|im_end|>"), pad_token_id=tid("<|endoftext|>"),
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[6, 5, 5],
                                 mrope_interleaved=True)),
        vision_config=dict(
            depth=4, hidden_size=96, intermediate_size=384, num_heads=4, in_channels=3, patch_size=16,
            temporal_patch_size=2, spatial_merge_size=2, out_hidden_size=128, num_position_embeddings=256,
            deepstack_visual_indexes=[1, 2], hidden_act="gelu_pytorch_tanh"),
        image_token_id=tid("<|image_pad|>"), video_token_id=tid("<|video_pad|>"),
        vision_start_token_id=tid("<|vision_start|>"), vision_end_token_id=tid("<|vision_end|>"),
        tie_word_embeddings=True)


def init_weights(model, seed=0):
    """Width-aware init, and a DCT basis of both frames for the patch embedding."""
    g = torch.Generator().manual_seed(seed)
    depth_t = model.config.text_config.num_hidden_layers
    depth_v = model.config.vision_config.depth
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                std = p.shape[1] ** -0.5
                if "embed_tokens" in name:
                    std = 0.06
                elif "pos_embed" in name:
                    std = 0.1
                elif "o_proj" in name or "down_proj" in name:
                    std *= (2 * depth_t) ** -0.5
                elif "visual.blocks" in name and ("attn.proj" in name or "linear_fc2" in name):
                    std *= (2 * depth_v) ** -0.5
                elif "deepstack" in name and "linear_fc2" in name:
                    std *= 0.3
                p.copy_(torch.randn(p.shape, generator=g) * std)
            elif name.endswith("bias"):
                p.zero_()
        w = model.model.visual.patch_embed.proj.weight                      # [d, 3, 2, 16, 16]
        k = torch.arange(16).float()
        dct = torch.stack([torch.cos(math.pi * (k + .5) * i / 16) for i in range(8)])
        dct = dct / dct.norm(dim=1, keepdim=True)
        opp = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2.]])
        opp = opp / opp.norm(dim=1, keepdim=True)
        rows = []
        order = sorted(((i, j) for i in range(8) for j in range(8)), key=lambda a: a[0] + a[1])
        for frame in (0, 1):
            for ch, m in ((0, 30), (1, 9), (2, 9)):
                for i, j in order[:m]:
                    r = torch.zeros(3, 2, 16, 16)
                    r[:, frame] = opp[ch][:, None, None] * (dct[i][:, None] * dct[j][None, :])
                    rows.append(r * (0.12 if i + j == 0 else 0.5) * (1.0 if ch == 0 else 1.5))
        rows = torch.stack(rows)[:w.shape[0]]
        w.normal_(0, 0.01, generator=g)
        w[:len(rows)] += rows


class Net(torch.nn.Module):
    """The HF model plus the training-only head, with batched (same-size) forwards."""

    def __init__(self, model):
        super().__init__()
        self.hf = model
        d = model.config.vision_config.hidden_size
        self.aux = torch.nn.Linear(d, 4 + len(COLOURS) + len(TYPES))
        self.cache = {}

    def geometry(self, gh, gw, dev):
        key = (gh, gw, str(dev))
        if key not in self.cache:
            from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids
            v = self.hf.model.visual
            grid = torch.tensor([[1, gh, gw]])
            idx, wt = get_vision_interpolation_indices_and_weights(
                grid, num_grid_per_side=v.num_grid_per_side, mode=v.interpolation_mode,
                align_corners=v.interpolation_align_corners, spatial_merge_size=2, kwargs={})
            pos = get_vision_position_ids(grid, 2, kwargs={})
            cos, sin = v.rotary_pos_emb(torch.zeros(1, device=dev), pos.to(dev))
            self.cache[key] = (idx.to(dev), wt.to(dev), cos[None, None].to(dev), sin[None, None].to(dev))
        return self.cache[key]

    def vision(self, px, gh, gw):
        """px [N, gh*gw, 1536] in merge-block order -> tokens, deepstack list, last hidden."""
        v = self.hf.model.visual
        idx, wt, cos, sin = self.geometry(gh, gw, px.device)
        w = v.patch_embed.proj
        x = F.linear(px, w.weight.flatten(1), w.bias) + (v.pos_embed(idx) * wt[:, :, None]).sum(1)
        n, p, d = x.shape
        deep = []
        for i, blk in enumerate(v.blocks):
            h = blk.norm1(x)
            q, k, val = blk.attn.qkv(h).view(n, p, 3, blk.attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            rot = lambda a: a * cos + torch.cat((-a[..., a.shape[-1] // 2:], a[..., :a.shape[-1] // 2]), -1) * sin
            a = F.scaled_dot_product_attention(rot(q), rot(k), val)
            x = x + blk.attn.proj(a.transpose(1, 2).reshape(n, p, d))
            x = x + blk.mlp(blk.norm2(x))
            if i in v.deepstack_visual_indexes:
                deep.append(v.deepstack_merger_list[v.deepstack_visual_indexes.index(i)](x.reshape(-1, d)))
        return v.merger(x.reshape(-1, d)), deep, x

    def forward(self, b, lm=True):
        tokens, deep, hid = self.vision(b["px"], b["gh"], b["gw"])
        out = {}
        if "occ" in b:
            a = self.aux(hid)
            occ = b["occ"]
            m = (occ > 0.15).float()
            loss = F.binary_cross_entropy_with_logits(a[..., 0], m) + F.binary_cross_entropy_with_logits(
                a[..., 1], b["centre"], pos_weight=torch.tensor(4., device=occ.device))
            den = m.sum() + 1
            disp = F.smooth_l1_loss(a[..., 2:4], b["disp"], reduction="none", beta=0.3).sum(-1)
            loss = loss + (disp * m).sum() / den
            nc = len(COLOURS)
            ce = F.cross_entropy(a[..., 4:4 + nc].flatten(0, 1), b["colour"].flatten(), reduction="none")
            ct = F.cross_entropy(a[..., 4 + nc:].flatten(0, 1), b["type"].flatten(), reduction="none")
            loss = loss + ((0.3 * ce + 0.3 * ct) * m.flatten()).sum() / den
            out["aux"] = loss
            out["disp"] = ((disp * m).sum() / den).detach()
        if lm:
            m = self.hf.model
            ids = b["ids"]
            emb = m.language_model.embed_tokens(ids)
            vis = b["vis"]
            emb = emb.masked_scatter(vis[..., None], tokens.to(emb.dtype))
            h = m.language_model(inputs_embeds=emb, attention_mask=b["mask"], position_ids=b["pos"],
                                 visual_pos_masks=vis, deepstack_visual_embeds=deep, use_cache=False).last_hidden_state
            bi, si = b["src"]
            logits = self.hf.lm_head(h[bi, si])
            out["nll"] = F.cross_entropy(logits, b["tgt"], reduction="none")
            out["hit"] = logits.argmax(-1) == b["tgt"]
        return out


# ----------------------------------------------------------------------- data
class Text:
    def __init__(self, tok):
        self.tok, self.memo = tok, {}
        self.id = {s: tok.convert_tokens_to_ids(s) for s in SPECIAL}

    def __call__(self, s):
        r = self.memo.get(s)
        if r is None:
            r = self.tok(s, add_special_tokens=False)["input_ids"]
            if len(self.memo) < 20000:
                self.memo[s] = r
        return r


def stamps(n, fps, t0=0.0):
    """One time per temporal patch: the mean of its two frames' times (Qwen3-VL's rule)."""
    t = [t0 + i / fps for i in range(n)]
    return [(t[i] + t[i + 1]) / 2 for i in range(0, n, 2)]


def patchify(frames):
    """uint8 [B, n, H, W, 3] -> float [B*T, gh*gw, 1536], normalised to [-1, 1], merge-block order."""
    b, n, h, w, _ = frames.shape
    x = torch.from_numpy(frames).view(b, n // 2, 2, h // 32, 2, 16, w // 32, 2, 16, 3)
    x = x.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(b * (n // 2), (h // 16) * (w // 16), 1536)
    return x.float().mul_(1 / 127.5).sub_(1)


def aux_targets(clip, gh, gw):
    n = len(clip.frames)
    T = n // 2
    occ = np.zeros((T, gh, gw), np.float32)
    cen = np.zeros((T, gh, gw), np.float32)
    disp = np.zeros((T, gh, gw, 2), np.float32)
    col = np.zeros((T, gh, gw), np.int64)
    typ = np.zeros((T, gh, gw), np.int64)
    ex, ey = np.arange(gw) * 16., np.arange(gh) * 16.
    for v in clip.vehicles:
        bx = v["boxes"].reshape(T, 2, 4)
        frac = 0
        for f in (0, 1):
            ox = np.clip(np.minimum(ex + 16, bx[:, f, 2:3]) - np.maximum(ex, bx[:, f, 0:1]), 0, 16) / 16
            oy = np.clip(np.minimum(ey + 16, bx[:, f, 3:4]) - np.maximum(ey, bx[:, f, 1:2]), 0, 16) / 16
            frac = np.maximum(frac, oy[:, :, None] * ox[:, None, :])
        take = frac > occ
        occ = np.maximum(occ, frac)
        d = (bx[:, 1, :2] - bx[:, 0, :2]) / 8
        disp[take] = np.broadcast_to(d[:, None, None, :], disp.shape)[take]
        col[take], typ[take] = v["colour"], v["type"]
        c = bx.mean(1)
        cx, cy = ((c[:, 0] + c[:, 2]) / 32).astype(int), ((c[:, 1] + c[:, 3]) / 32).astype(int)
        ok = (cx >= 0) & (cx < gw) & (cy >= 0) & (cy < gh) & (c[:, 0] + c[:, 2] >= 0)
        t = np.arange(T)[ok]
        cen[t, cy[ok], cx[ok]] = 1
    blk = lambda a: a.reshape(T, gh // 2, 2, gw // 2, 2, *a.shape[3:]).swapaxes(2, 3).reshape(T, gh * gw, *a.shape[3:])
    return [blk(a) for a in (occ, cen, disp, col, typ)]


def assemble(text, clips, branches, size, dev="cpu", aux=True, times=None, t0=None, system=None, px=None,
             images=False, wrap=None):
    """A batch dict: every clip with its question/answer branches [(kind, question, answer)...].

    times overrides the timestamps; images=True gives every frame as a still image of its own, without
    timestamps (the "bag of images" control of eval.py).  wrap adds an outer vision_start/vision_end around
    the video, as transformers 5.x renders it when the template's own pair is left in place.
    """
    if images:
        px, aux = patchify(np.stack([np.repeat(c.frames, 2, 0) for c in clips])), False
    w, h = size
    gh, gw = h // 16, w // 16
    m = gh * gw // 4
    B = len(clips)
    vs, ve, vp, ims, ime = (text.id[s] for s in ("<|vision_start|>", "<|vision_end|>",
                                                  "<|image_pad|>" if images else "<|video_pad|>",
                                                  "<|im_start|>", "<|im_end|>"))
    gy, gx = np.divmod(np.arange(m), gw // 2)
    step = max(gh, gw) // 2
    rows = []
    for i, c in enumerate(clips):
        ts = times[i] if times else stamps(len(c.frames), c.fps, t0[i] if t0 else 0.0)
        ids, pos, cur = [], [], 0

        def put(tk):
            nonlocal cur
            ids.extend(tk)
            pos.append(np.tile(np.arange(cur, cur + len(tk)), (3, 1)))
            cur += len(tk)
        if system and system[i]:
            put([ims] + text("system\n" + system[i]) + [ime] + text("\n"))
        lead = "user\n"
        put([ims])
        if wrap and wrap[i]:
            put(text(lead) + [vs])
            lead = ""
        for t in (c.frames if images else ts):
            put(text(lead if images else f"{lead}<{t:.1f} seconds>") + [vs])
            lead = ""
            ids.extend([vp] * m)
            pos.append(np.stack([np.full(m, cur), cur + gy, cur + gx]))
            cur += step
            put([ve])
        if wrap and wrap[i]:
            put([ve])
        seg, tgt, kinds = [0] * len(ids), [], []
        for k, (kind, q, a) in enumerate(branches[i]):
            qi = text(q) + [ime] + text("\n") + [ims] + text("assistant\n")
            ai = text(a) + [ime]
            s = len(ids)
            full = qi + ai
            ids.extend(full)
            pos.append(np.tile(np.arange(cur, cur + len(full)), (3, 1)))
            seg.extend([k + 1] * len(full))
            for j in range(len(ai)):
                tgt.append((s + len(qi) + j - 1, ai[j], k))
            kinds.append(kind)
        rows.append((ids, np.concatenate(pos, 1), seg, tgt))
    S = max(len(r[0]) for r in rows)
    ids = np.full((B, S), text.id["<|endoftext|>"], np.int64)
    pos = np.zeros((3, B, S), np.int64)
    seg = np.full((B, S), -1, np.int64)
    src_b, src_s, tgt, br = [], [], [], []
    for i, (a, p, s, t) in enumerate(rows):
        ids[i, :len(a)] = a
        pos[:, i, :len(a)] = p
        seg[i, :len(s)] = s
        for j, y, k in t:
            src_b.append(i), src_s.append(j), tgt.append(y), br.append(k)
    causal = np.tril(np.ones((S, S), bool))
    mask = causal & ((seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None]))
    mask |= np.eye(S, dtype=bool)
    T_ = torch.from_numpy
    out = dict(px=patchify(np.stack([c.frames for c in clips])) if px is None else px, gh=gh, gw=gw, ids=T_(ids),
               pos=T_(pos), mask=T_(mask[:, None]), vis=T_(ids == vp), src=(torch.tensor(src_b), torch.tensor(src_s)),
               tgt=torch.tensor(tgt), branch=torch.tensor(br))
    if aux:
        for name, arrs in zip(("occ", "centre", "disp", "colour", "type"),
                              zip(*[aux_targets(c, gh, gw) for c in clips])):
            out[name] = T_(np.concatenate(arrs))
    return to_device(out, dev)


def to_device(b, dev):
    if str(dev) == "cpu":
        return b
    f = lambda v: v.to(dev, non_blocking=True) if torch.is_tensor(v) else tuple(x.to(dev) for x in v) if isinstance(
        v, tuple) else v
    return {k: f(v) for k, v in b.items()}


WEIGHTS = dict(describe=1.6, speed=1.2, direction=1.0, count=0.8, stopped=0.7, colours=0.4, json=0.8)


def draw_branches(rng, truth, k, kinds=None):
    names = list(kinds or WEIGHTS)
    p = np.array([WEIGHTS[n] for n in names])
    pick = rng.choice(len(names), size=min(k, len(names)), replace=False, p=p / p.sum())
    return [(names[i], QUESTIONS[names[i]][rng.integers(len(QUESTIONS[names[i]]))], answer(names[i], truth))
            for i in pick]


# (share of the time, sizes, frame counts, most vehicles, question branches, language?)
STAGES = [
    dict(share=0.12, sizes=[(96, 64), (96, 96)], frames=[4], count=3, branches=0, lm=False),
    dict(share=0.23, sizes=[(96, 64), (96, 96)], frames=[4], count=2, branches=4, lm=True),
    dict(share=0.40, sizes=[(96, 64), (128, 96), (128, 96), (96, 96)], frames=[4, 4, 6], count=4, branches=3, lm=True),
    dict(share=0.25, sizes=[(128, 96), (128, 96), (160, 96), (96, 128)], frames=[4, 6, 8], count=4, branches=3,
         lm=True, extra=True),
]


class Source(torch.utils.data.IterableDataset):
    def __init__(self, tok_dir, batch, seed, stage):
        self.tok_dir, self.batch, self.seed, self.stage = tok_dir, batch, seed, stage

    def __iter__(self):
        torch.set_num_threads(1)
        from transformers import AutoTokenizer
        text = Text(AutoTokenizer.from_pretrained(self.tok_dir))
        info = torch.utils.data.get_worker_info()
        wid, nw = (info.id, info.num_workers) if info else (0, 1)
        i = wid
        while True:
            rng = np.random.default_rng((self.seed, i))
            yield self.make(text, rng, self.seed * 10_000_000 + i * 4096)
            i += nw

    def make(self, text, rng, base):
        st = STAGES[int(self.stage.value)]
        size = st["sizes"][rng.integers(len(st["sizes"]))]
        n = int(st["frames"][rng.integers(len(st["frames"]))])
        fps = [f for f in (1, 2, 4) if (n - 1) / f <= 4.0]
        cost = size[0] * size[1] * n / (128 * 96 * 4)
        B = max(8, int(round(self.batch / cost / 8)) * 8) if cost > 1 else self.batch
        clips, branches, t0, system, wrap = [], [], [], [], []
        for k in range(B):
            o = Options(width=size[0], height=size[1], frames=n, fps=fps[rng.integers(len(fps))], max_count=st["count"])
            c = make_clip(base + k, o)
            clips.append(c)
            branches.append(draw_branches(rng, c.truth, st["branches"]) if st["lm"] else [])
            extra = st.get("extra")
            t0.append(float(rng.integers(1, 60)) if extra and rng.random() < 0.2 else 0.0)
            system.append(SYSTEM if extra and rng.random() < 0.1 else None)
            wrap.append(bool(extra and rng.random() < 0.15))
        if not st["lm"]:
            b = dict(px=patchify(np.stack([c.frames for c in clips])), gh=size[1] // 16, gw=size[0] // 16)
            for name, arrs in zip(("occ", "centre", "disp", "colour", "type"),
                                  zip(*[aux_targets(c, b["gh"], b["gw"]) for c in clips])):
                b[name] = torch.from_numpy(np.concatenate(arrs))
            b["clips"] = B
            return b
        b = assemble(text, clips, branches, size, t0=t0, system=system, wrap=wrap)
        b["clips"] = B
        return b


# ------------------------------------------------------------------ optimiser
class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, for hidden matrices (f32)."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            groups = {}
            for p in g["params"]:
                if p.grad is None:
                    continue
                buf = self.state[p].setdefault("m", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - g["momentum"])
                groups.setdefault(tuple(p.shape), []).append((p, p.grad.lerp(buf, g["momentum"])))
            for shape, items in groups.items():
                x = torch.stack([u for _, u in items])
                tall = shape[0] > shape[1]
                if tall:
                    x = x.mT.contiguous()
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                if tall:
                    x = x.mT.contiguous()
                scale = 0.2 * max(shape) ** 0.5
                for (p, _), u in zip(items, x):
                    p.mul_(1 - g["lr"] * g["weight_decay"]).add_(u, alpha=-g["lr"] * scale)


def split_params(net):
    mats, rest = [], []
    for n, p in net.named_parameters():
        hidden = p.ndim == 2 and not any(s in n for s in ("embed", "aux", "lm_head", "merger"))
        (mats if hidden else rest).append(p)
    return mats, rest


# ----------------------------------------------------------------- quick eval
@torch.no_grad()
def quick_eval(net, text, clips_n=96, size=(160, 96), frames=6, max_count=4, seed=900_000_000, dev="cpu"):
    """Exact-match rate per question kind on unseen seeds (greedy = teacher forced when every token hits)."""
    net.eval()
    res = {}
    for s in range(0, clips_n, 32):
        clips = [make_clip(seed + s + k, Options(width=size[0], height=size[1], frames=frames, max_count=max_count,
                                                 fps=[f for f in (1, 2, 4) if (frames - 1) / f <= 4][(s + k) % (
                                                     3 if frames <= 4 else 2)])) for k in range(32)]
        br = [[(k, QUESTIONS[k][0], answer(k, c.truth)) for k in QUESTIONS] for c in clips]
        b = assemble(text, clips, br, size, dev, aux=False)
        o = net(b)
        bi = b["src"][0] * 16 + b["branch"]
        for i in range(len(clips)):
            for k, (kind, _, _) in enumerate(br[i]):
                res.setdefault(kind, []).append(bool(o["hit"][bi == i * 16 + k].all()))
    net.train()
    return {k: round(float(np.mean(v)), 3) for k, v in res.items()}


# --------------------------------------------------------------------- export
def export(model, tok, out, dtype=torch.bfloat16):
    """Writes a directory that transformers' from_pretrained and AutoProcessor load."""
    import copy
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
    os.makedirs(out, exist_ok=True)
    m = copy.deepcopy(model).to("cpu", dtype)
    tid = tok.convert_tokens_to_ids
    m.generation_config.update(do_sample=False, max_new_tokens=64, eos_token_id=[tid("<|im_end|>"), tid("<|endoftext|>")],
                               pad_token_id=tid("<|endoftext|>"), bos_token_id=tid("<|endoftext|>"))
    m.save_pretrained(out)
    tok.save_pretrained(out)
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, patch_size=16, temporal_patch_size=2, merge_size=2)
    ip = Qwen2VLImageProcessor(size=dict(shortest_edge=64 * 64, longest_edge=192 * 128), **half)
    vp = Qwen3VLVideoProcessor(size=dict(shortest_edge=4 * 64 * 64, longest_edge=12 * 192 * 128), fps=2, min_frames=4,
                               max_frames=16, **half)
    Qwen3VLProcessor(ip, tok, vp, chat_template=CHAT_TEMPLATE).save_pretrained(out)
    # the rotary keys as the released Qwen3-VL configs spell them (transformers 4.57 and 5 read both spellings)
    path = os.path.join(out, "config.json")
    with open(path) as f:
        c = json.load(f)
    r = c["text_config"].pop("rope_parameters")
    c["text_config"]["rope_theta"] = r["rope_theta"]
    c["text_config"]["rope_scaling"] = {k: r[k] for k in ("mrope_interleaved", "mrope_section", "rope_type")}
    c["vision_config"].pop("rope_parameters", None)
    with open(path, "w") as f:
        json.dump(c, f, indent=2)
    os.chmod(os.path.join(out, "model.safetensors"), 0o644)
    # transformers 5 writes one processor_config.json; the released checkpoints have these two files
    for name, p in (("preprocessor_config.json", ip), ("video_preprocessor_config.json", vp)):
        d = json.loads(p.to_json_string())
        d["processor_class"] = "Qwen3VLProcessor"
        with open(os.path.join(out, name), "w") as f:
            json.dump(d, f, indent=2)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="model")
    ap.add_argument("--work", default="work", help="checkpoints and log")
    ap.add_argument("--minutes", type=float, default=45)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--lr", type=float, default=2e-3, help="AdamW rate (embeddings, norms, biases)")
    ap.add_argument("--muon-lr", type=float, default=4e-3, help="Muon rate (hidden matrices)")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--workers", type=int, default=1, help="data processes")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--start-share", type=float, default=0.0, help="skip this share of the schedule")
    ap.add_argument("--resume", help="checkpoint to start from")
    a = ap.parse_args()
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
    from transformers.utils import logging as hf_logging
    hf_logging.set_verbosity_error()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    os.makedirs(a.work, exist_ok=True)
    tok = build_tokenizer()
    tok.save_pretrained(os.path.join(a.work, "tok"))
    tok = AutoTokenizer.from_pretrained(os.path.join(a.work, "tok"))
    text = Text(tok)
    model = Qwen3VLForConditionalGeneration(build_config(tok)).float()
    model.config._attn_implementation = "sdpa"
    init_weights(model, a.seed)
    net = Net(model).to(a.device)
    if a.resume:
        net.load_state_dict(torch.load(a.resume, map_location=a.device)["net"])
    print("parameters", sum(p.numel() for p in model.parameters()), "vocab", len(tok), flush=True)
    mats, rest = split_params(net)
    opts = [Muon(mats, a.muon_lr), torch.optim.AdamW(rest, a.lr, betas=(0.9, 0.98), weight_decay=0.01)]
    base_lr = [a.muon_lr, a.lr]
    stage = torch.multiprocessing.Value("i", 0)
    edges = np.cumsum([s["share"] for s in STAGES])
    stage.value = int(np.searchsorted(edges, a.start_share, side="right"))
    loader = torch.utils.data.DataLoader(Source(os.path.join(a.work, "tok"), a.batch, a.seed, stage), batch_size=None,
                                         num_workers=a.workers, prefetch_factor=3 if a.workers else None)
    log = open(os.path.join(a.work, "log.txt"), "a")

    def say(s):
        print(s, flush=True)
        log.write(s + "\n")
        log.flush()

    start, step, seen, last_save, last_eval, last_log = time.time(), 0, 0, time.time(), time.time(), time.time()
    ema = {}
    for b in loader:
        frac = a.start_share + (1 - a.start_share) * (time.time() - start) / (a.minutes * 60)
        if frac >= 1:
            break
        stage.value = min(len(STAGES) - 1, int(np.searchsorted(edges, frac, side="right")))
        warm = min(1, (step + 1) / (15 if a.resume else 60))
        lr = warm * (1.0 if frac < 0.3 else 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (frac - 0.3) / 0.7)))
        for o, l0 in zip(opts, base_lr):
            for g in o.param_groups:
                g["lr"] = l0 * lr
        seen += b.pop("clips")
        lm = "ids" in b
        b = to_device(b, a.device)
        o = net(b, lm)
        loss = o["aux"] * (1.0 if not lm else max(0.15, 0.6 * (1 - frac)))
        if lm:
            loss = loss + o["nll"].mean() * 2
        for op in opts:
            op.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for op in opts:
            op.step()
        step += 1
        for k, v in (("aux", o["aux"]), ("disp", o["disp"]), ("nll", o["nll"].mean() if lm else None)):
            if v is not None:
                ema[k] = 0.95 * ema.get(k, float(v)) + 0.05 * float(v)
        now = time.time()
        if step % 25 == 0:
            say(f"{(now - start) / 60:5.1f} min step {step} stage {stage.value} clips {seen} "
                f"({25 / (now - last_log):.2f} step/s) lr {lr:.3f} " + " ".join(f"{k} {v:.4f}" for k, v in ema.items()))
            last_log = now
        if lm and now - last_eval > 150:
            say("  heldout 128x96x4 n<=2 " + json.dumps(quick_eval(net, text, 64, (128, 96), 4, 2, dev=a.device)))
            if frac > 0.3:
                say("  heldout 160x96x6 n<=4 " + json.dumps(quick_eval(net, text, 64, dev=a.device)))
            last_eval = time.time()
        if now - last_save > 180:
            torch.save(dict(net=net.state_dict(), step=step, frac=frac), os.path.join(a.work, "ckpt.pt"))
            if lm:
                export(model, tok, a.out)
            last_save = time.time()
    torch.save(dict(net=net.state_dict(), step=step, frac=1.0), os.path.join(a.work, "ckpt.pt"))
    export(model, tok, a.out)
    say(f"done: {step} steps, {seen} clips, {(time.time() - start) / 60:.1f} min")
    say("  heldout 160x96x6 n<=4 " + json.dumps(quick_eval(net, text, 192, dev=a.device)))


if __name__ == "__main__":
    main()
