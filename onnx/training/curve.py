"""Draws the curve over training as a small SVG, without a plotting library."""

COLOURS = {"OpenMoji R@1": "#c0392b", "OpenMoji R@5": "#e67e22", "OpenMoji R@10": "#d4ac0d",
           "OpenMoji, 46 everyday names": "#2471a3", "FxEmojis R@1": "#1e8449", "Symbola R@1": "#7d3c98"}


def draw(points):
    wanted = {"OpenMoji R@1": ("openmoji", "R@1"), "OpenMoji R@5": ("openmoji", "R@5"),
              "OpenMoji R@10": ("openmoji", "R@10"), "OpenMoji, 46 everyday names": ("everyday", None),
              "FxEmojis R@1": ("fxemoji", "R@1"), "Symbola R@1": ("symbola", "R@1")}
    series = {name: [p[style][k] if k else p[style] for p in points]
              for name, (style, k) in wanted.items() if all(style in p for p in points)}
    last = max(p["minutes"] for p in points)
    x = lambda m: 50 + 430 * m / last
    y = lambda v: 270 - 2.4 * v
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 310" font-family="sans-serif" font-size="12">',
           '<rect width="720" height="310" fill="#fff"/>']
    for v in range(0, 101, 20):
        out.append(f'<path d="M50 {y(v):.0f}H480" stroke="#ddd"/><text x="42" y="{y(v) + 4:.0f}" text-anchor="end">{v}</text>')
    for m in range(0, int(last) + 1, 10):
        out.append(f'<text x="{x(m):.0f}" y="288" text-anchor="middle">{m}</text>')
    out.append('<text x="265" y="304" text-anchor="middle">minutes of training</text><text x="8" y="20">%</text>')
    at = []
    for name, values in series.items():
        line = " ".join(f"{x(p['minutes']):.1f},{y(v):.1f}" for p, v in zip(points, values))
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        at.append((y(values[-1]), name, values[-1]))
    low = -99
    for place, name, value in sorted(at):
        low = max(place, low + 16)
        out.append(f'<text x="488" y="{low + 4:.0f}" fill="{COLOURS[name]}">{value:.0f} %  {name}</text>')
    return "\n".join(out) + "\n</svg>\n"
