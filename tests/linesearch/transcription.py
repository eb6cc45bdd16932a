"""The line searches again, as plain loops in Python: what the machines must do."""

import math


def search_wolfe(
    phi, value, slope, t, c1=1e-4, c2=0.9, max_trials=40, max_stepsize=1e15, eps=2e-16
):
    """Returns the stepsizes that are tried, the last of them accepted, or None last.

    Nocedal and Wright's bracketing and zoom, kept as one pair of ends: `low`, the best
    point that decreases enough, and `high` on the other side of a minimum.
    """
    noise = 10 * eps * abs(value) if math.isfinite(value) else 0.0
    low, high = (0.0, value, slope), (math.inf, math.inf, 0.0)
    tried = []
    while True:
        f, d = phi(t)
        tried.append(t)
        noise = observed_noise(noise, value, slope, t, f, d, eps)
        finite = math.isfinite(f) and math.isfinite(d)
        armijo = finite and f <= value + c1 * t * slope
        level = finite and f <= value + noise
        flat = abs(d) <= -c2 * slope
        if finite and flat and (armijo or (level and d <= (2 * c1 - 1) * slope)):
            return tried
        before = low
        good = armijo or level
        if good and f <= low[1] + noise:
            if d * (high[0] - low[0]) >= 0:
                high = low
            low = (t, f, d)
        else:
            high = (t, f, d)
        if math.isfinite(high[0]):
            over = abs(high[0] - low[0]) <= eps * max(high[0], low[0])
            following = zoom(low, high, middle=(len(tried) - 1) % 3 == 2)
        else:
            over = t >= max_stepsize
            guess = cubic_minimum(before, (t, f, d))
            guess = guess if guess is not None and guess > t else math.inf
            following = min(max(guess, 2 * t), 10 * t, max_stepsize)
        if over or len(tried) >= max_trials:
            if low[0] <= 0:
                return [*tried, None]
            if good and t == low[0]:
                return tried
            return [*tried, low[0]]
        t = following


def observed_noise(noise, value, slope, t, f, d, eps):
    """Values off the line between two like slopes are off by rounding."""
    off = 2 * abs(f - value - t * (slope + d) / 2)
    like = slope <= d <= slope / 2
    if like and abs(f - value) <= math.sqrt(eps) * abs(value):
        return max(noise, off)
    return noise


def zoom(low, high, middle):
    """A point inside the bracket."""
    left, right = sorted([low[0], high[0]])
    guess = cubic_minimum(low, high) if math.isfinite(high[1]) else None
    if not math.isfinite(high[1]):
        guess = low[0] + 0.1 * (high[0] - low[0])
    elif guess is None:
        guess = low[0] + 0.5 * (high[0] - low[0])
    pad = (0.5 if middle else 0.1) * (right - left)
    return min(max(guess, left + pad), right - pad)


def cubic_minimum(a, b):
    """Nocedal and Wright (3.59); None where it has no minimum."""
    (ta, fa, da), (tb, fb, db) = a, b
    if ta == tb or not all(map(math.isfinite, (fa, fb, da, db))):
        return None
    d1 = da + db - 3 * (fa - fb) / (ta - tb)
    under = d1**2 - da * db
    if under < 0:
        return None
    d2 = math.copysign(math.sqrt(under), tb - ta)
    if db - da + 2 * d2 == 0:
        return None
    return tb - (tb - ta) * (db + d2 - d1) / (db - da + 2 * d2)


def search_backtracking(phi, value, slope, t, c1=1e-4, max_trials=40, eps=2e-16):
    """Returns the stepsizes that are tried, the last of them accepted, or None last."""
    noise = 10 * eps * abs(value) if math.isfinite(value) else 0.0
    tried = []
    while len(tried) < max_trials:
        f, d = phi(t)
        tried.append(t)
        noise = observed_noise(noise, value, slope, t, f, d, eps)
        if math.isfinite(f):
            gentle = f <= value + noise and d <= (2 * c1 - 1) * slope
            if f <= value + c1 * t * slope or gentle:
                return tried
            excess = f - value - t * slope
            parabola = -0.5 * slope * t * t / excess if excess > 0 else math.inf
            t = min(max(parabola, 0.1 * t), 0.5 * t)
        else:
            t = 0.1 * t
    return [*tried, None]
