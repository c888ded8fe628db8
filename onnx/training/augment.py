"""Turns stored RGBA squares into training pictures, a whole batch at a time.

The point is style, not only position: what must carry over to another artist's hand is
the shape and the rough colours, so outlines are drawn and removed, fills are flattened,
recoloured, emptied or greyed, and the background is whatever it happens to be.
All in place on float tensors; each effect runs on the part of the batch that drew it.
"""
import torch
import torch.nn.functional as F

LUMA = (0.299, 0.587, 0.114)


def _pick(n, p, g):
    """The indices of those of n that draw an effect of probability p."""
    return torch.nonzero(torch.rand(n, generator=g) < p).flatten()


def _rand(g, n, lo, hi):
    return lo + (hi - lo) * torch.rand(n, generator=g)


def _grid(n, side, flip_ok, g, strength):
    """Sampling grids: turned, scaled, sheared, moved, mirrored, and bent a little."""
    angle = torch.randn(n, generator=g) * 0.15 * strength
    scale = torch.exp(_rand(g, n, -0.16, 0.42) * strength)  # > 1: the picture becomes smaller
    aspect = torch.exp(torch.randn(n, generator=g) * 0.08)
    shear = torch.randn(n, generator=g) * 0.08
    mirror = torch.ones(n)
    mirror[(torch.rand(n, generator=g) < 0.25) & flip_ok] = -1
    cos, sin = angle.cos(), angle.sin()
    room = (scale - 1).clamp(min=0) * 0.8 + 0.06
    tx, ty = _rand(g, n, -1, 1) * room, _rand(g, n, -1, 1) * room
    theta = torch.stack([
        torch.stack([mirror * scale * aspect * cos, mirror * scale * (shear - sin), tx], 1),
        torch.stack([scale * sin, scale / aspect * cos, ty], 1)], 1)
    grid = F.affine_grid(theta, (n, 4, side, side), align_corners=False)
    bent = _pick(n, 0.5, g)
    if len(bent):
        field = torch.randn(len(bent), 2, 5, 5, generator=g) * 0.045
        field = F.interpolate(field, size=(side, side), mode="bilinear", align_corners=True)
        grid[bent] += field.permute(0, 2, 3, 1)
    return grid


def _dilate(x, k):
    return F.max_pool2d(x, k, 1, k // 2)


def _edges(rgb, alpha, k):
    """Where the shape ends or its brightness jumps, as an ink coverage in 0 ... 1."""
    y = (rgb * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) + (1 - alpha)
    inner = _dilate(y, 3) + _dilate(-y, 3)
    rim = _dilate(alpha, 3) + _dilate(-alpha, 3)
    ink = torch.maximum(((inner - 0.16) * 5).clamp(0, 1), ((rim - 0.3) * 3).clamp(0, 1))
    return _dilate(ink, k) if k > 1 else ink


def _colour(n, g):
    return torch.rand(n, 3, 1, 1, generator=g)


def augment(pictures, mono, flip_ok, side, g, strength=1.0):
    """uint8 [n, SIZE, SIZE, 4] premultiplied -> float [n, 3, side, side] in 0 ... 1.

    mono: pictures of black ink only; flip_ok: pictures that mean the same mirrored;
    strength: how often and how strongly, so that training can begin with easier pictures."""
    n = len(pictures)
    x = pictures.permute(0, 3, 1, 2).float().mul_(1 / 255)
    x = F.grid_sample(x, _grid(n, side, flip_ok, g, strength), mode="bilinear", padding_mode="zeros", align_corners=False)
    rgb, alpha = x[:, :3], x[:, 3:]

    # Another palette: colours mixed, washed out or over-saturated, brightened.
    i = _pick(n, 0.55 * strength, g)
    y = (rgb[i] * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    a = alpha[i]
    c = y + (rgb[i] - y) * _rand(g, len(i), 0.3, 1.7).view(-1, 1, 1, 1)
    mix = torch.eye(3) + torch.randn(len(i), 3, 3, generator=g) * 0.10
    mix = mix / mix.sum(2, keepdim=True)
    c = torch.einsum("nij,njhw->nihw", mix, c)
    c = c * torch.exp(torch.randn(len(i), 1, 1, 1, generator=g) * 0.15) + a * _rand(g, len(i), -.12, .12).view(-1, 1, 1, 1)
    rgb[i] = torch.minimum(c.clamp(min=0), a)
    # Flat fills: gradients and shading gone.
    i = _pick(n, 0.25 * strength, g)
    if len(i):
        a = alpha[i].clamp(min=1e-3)
        c = F.avg_pool2d(rgb[i], 3, 1, 1) / F.avg_pool2d(a, 3, 1, 1).clamp(min=1e-3)
        levels = torch.randint(3, 6, (len(i), 1, 1, 1), generator=g).float()
        rgb[i] = (c * levels).round() / levels * a
    # Only one hue, or grey.
    i = _pick(n, 0.12 * strength, g)
    y = (rgb[i] * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    tint = torch.where(torch.rand(len(i), 1, 1, 1, generator=g) < 0.6, torch.ones(len(i), 3, 1, 1), _colour(len(i), g))
    rgb[i] = y * tint
    # Ink of black icons in some colour (white too).
    i = torch.nonzero(mono & (torch.rand(n, generator=g) < 0.4)).flatten()
    if len(i):
        rgb[i] = alpha[i] * _colour(len(i), g)
    # Outlines over the fills; some fills lighter, some gone: a drawing in ink.
    i = _pick(n, 0.40 * strength, g)
    i = i[~mono[i]]
    if len(i):
        k = 3 if torch.rand(1, generator=g) < 0.35 else 1
        ink = _edges(rgb[i], alpha[i], k)
        a = torch.maximum(alpha[i], ink)
        fill = torch.rand(len(i), 1, 1, 1, generator=g)
        c = rgb[i] + (a - alpha[i])
        empty = (fill < 0.25).float()
        light = ((fill > 0.25) & (fill < 0.5)).float() * 0.5
        c = c + (a - c) * torch.maximum(empty, light)
        shade = _rand(g, len(i), 0, 1).view(-1, 1, 1, 1).pow(4) * 0.5
        rgb[i] = c * (1 - ink) + ink * shade
        alpha[i] = a
    # A silhouette.
    i = _pick(n, 0.02 * strength, g)
    rgb[i] = 0

    # The background: white, a colour, a gradient, dark; black ink never on near-black.
    back = torch.ones(n, 3, 1, 1)
    i = _pick(n, 0.35 * strength, g)
    back[i] = _colour(len(i), g).pow(0.6)
    dark = _pick(n, 0.05 * strength, g)
    dark = dark[~mono[dark]]
    back[dark] = _colour(len(dark), g) * 0.25
    out = rgb + back * (1 - alpha)
    i = _pick(n, 0.06 * strength, g)
    if len(i):
        ramp = F.interpolate(torch.rand(len(i), 3, 2, 2, generator=g), size=(side, side), mode="bilinear", align_corners=True)
        out[i] = rgb[i] + (0.4 + 0.6 * ramp) * (1 - alpha[i])

    # The camera's share: blur, coarse pixels, noise, contrast, a missing piece.
    i = _pick(n, 0.15 * strength, g)
    if len(i):
        out[i] = F.avg_pool2d(F.pad(out[i], (1, 1, 1, 1), mode="replicate"), 3, 1)
    i = _pick(n, 0.06 * strength, g)
    if len(i):
        out[i] = F.interpolate(F.interpolate(out[i], size=side // 3, mode="area"), size=side, mode="bilinear")
    i = _pick(n, 0.15 * strength, g)
    if len(i):
        out[i] += torch.randn(len(i), 3, side, side, generator=g) * _rand(g, len(i), 0.01, 0.08).view(-1, 1, 1, 1)
    i = _pick(n, 0.25 * strength, g)
    contrast = _rand(g, len(i), 0.6, 1.2).view(-1, 1, 1, 1)
    out[i] = (out[i] - 0.5) * contrast + 0.5 + _rand(g, len(i), -.08, .08).view(-1, 1, 1, 1)
    for j in _pick(n, 0.12 * strength, g).tolist():
        w, h = torch.randint(side // 8, side // 3, (2,), generator=g).tolist()
        px, py = torch.randint(0, side - side // 3, (2,), generator=g).tolist()
        out[j, :, py:py + h, px:px + w] = torch.rand(3, 1, 1, generator=g)
    return out.clamp_(0, 1)


def plain(pictures, side):
    """The stored squares on white at the training side, for evaluation."""
    x = pictures.permute(0, 3, 1, 2).float().mul_(1 / 255)
    x = x[:, :3] + (1 - x[:, 3:])
    return F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
