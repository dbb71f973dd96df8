"""Each step of the geometric frontalizer by itself, against closed forms, plain loops and other libraries."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

from qcfer.core.yaw import pose_to_matrix
from qcfer.frontalize import geometric as g
from qcfer.frontalize.conditions import frontalizer
from qcfer.frontalize.head import SIZE, Fit, fit_rigid, generic_head, sight

GRID = np.stack(np.meshgrid(g._ACROSS, g._DOWN), axis=-1)  # (81, 81, 2): right, up


@pytest.fixture(scope="module")
def head():
    return generic_head()


def seen(head, pose, scale=1150.0):
    "A fit of the generic head as it is, in the middle of a picture."
    return Fit(pose_to_matrix(np.array(pose, float)), scale, np.array([SIZE / 2, -SIZE / 2.3]), head.landmarks, head.landmarks)


def marked(fitted):
    "Its landmarks (68, 2), pixels, y down."
    return fitted.project(fitted.points) * [1, -1]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


# The head, bent


def test_a_sum_of_bells_over_the_grid(head):
    gains = np.random.default_rng(0).normal(size=(68, 3))
    squares = ((GRID[:, :, None] - head.landmarks[:, :2]) ** 2).sum(-1)
    np.testing.assert_allclose(g._spread(head.landmarks, gains), np.exp(-squares / (2 * 0.03**2)) @ gains, atol=1e-12)


def test_the_head_is_bent_as_a_ridge_regression_with_a_linear_trend_says(head):
    rng = np.random.default_rng(1)
    points = head.landmarks * [1.05, 0.97, 1.1] + [0.002, 0.001, -0.004] + rng.normal(0, 0.002, (68, 3))
    fitted = replace(seen(head, (30, 5, -4)), points=points)
    off = rng.normal(0, 2, (68, 2))
    move, left = g._moved(head, fitted, marked(fitted) + off * [1, -1])
    flat = np.column_stack([np.ones(68), points[:, :2]])
    trend = np.linalg.lstsq(flat, points - head.landmarks, rcond=None)[0]
    rest = points - head.landmarks - flat @ trend
    bells = RBFInterpolator(
        points[:, :2],
        np.column_stack([rest, off * sight(head.landmarks, fitted.rotation)[:, None]]),
        kernel="gaussian",
        epsilon=1 / (np.sqrt(2) * 0.03),
        smoothing=0.15,
        degree=-1,
    )
    expected = bells(GRID.reshape(-1, 2)).reshape(81, 81, 5)
    np.testing.assert_allclose(move, expected[..., :3] + trend[0] + GRID @ trend[1:], atol=1e-9)
    np.testing.assert_allclose(left, expected[..., 3:], atol=1e-7)


@pytest.mark.parametrize("yaw", [40, -40])
def test_a_head_that_is_not_bent_stands_where_it_is_placed(head, yaw):
    fitted = seen(head, (yaw, -6, 3))
    places = g.look_up(head, fitted, None)
    cells = head.places(GRID[..., 0], GRID[..., 1])
    horizon = head.horizon[:, ::-1] if yaw > 0 else head.horizon
    depth, beside, hidden = (map_coordinates(values, cells, order=1, mode="nearest") for values in (head.depth, head.beside, horizon))
    flat = fitted.project(np.concatenate([GRID, depth[..., None]], axis=-1))
    np.testing.assert_allclose(np.stack([places.columns, places.rows], -1), flat * [1, -1] - 0.5, atol=1e-9)
    np.testing.assert_allclose(places.beside, beside, atol=1e-12)
    azimuth = np.degrees(np.arctan2(fitted.rotation[2, 0], fitted.rotation[2, 2]))
    assert azimuth == pytest.approx(-yaw, abs=1.5)
    np.testing.assert_allclose(places.margin, 90 - abs(azimuth) - hidden, atol=1e-9)


def test_a_face_that_looks_the_other_way_hides_the_other_half(head):
    right, left = (g.look_up(head, seen(head, (yaw, 0, 0)), None).margin for yaw in (35, -35))
    np.testing.assert_allclose(right, left[:, ::-1], atol=1e-6)
    assert (right[40, 45:70] < right[40, 11:36][::-1]).all()


def test_landmarks_that_fit_change_nothing(head):
    fitted = seen(head, (25, 3, 2))
    bent, placed = (g.look_up(head, fitted, given) for given in (marked(fitted), None))
    for one, other in zip(bent, placed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_margins_between_the_points_of_the_horizon(head):
    rng = np.random.default_rng(0)
    cells, fitted = rng.uniform(40, 120, (2, 200)), seen(head, (-30, 4, 0))
    rows, columns = np.floor(cells).astype(int)
    down, across = cells - np.floor(cells)
    at = [[head.horizon[rows + below, columns + beyond] for beyond in (0, 1)] for below in (0, 1)]
    hidden = (1 - down) * ((1 - across) * at[0][0] + across * at[0][1]) + down * ((1 - across) * at[1][0] + across * at[1][1])
    azimuth = np.degrees(np.arctan2(fitted.rotation[2, 0], fitted.rotation[2, 2]))
    np.testing.assert_allclose(g._margin(head, fitted, cells), 90 - azimuth - hidden, atol=1e-4)


def test_a_face_that_stands_out_further_is_further_to_the_side(head):
    fitted = seen(head, (30, 0, 0))
    nearer = replace(fitted, points=fitted.points + [0, 0, 0.01])
    placed, bent = (g.look_up(head, each, given) for each, given in ((fitted, None), (nearer, marked(nearer))))
    step = fitted.scale * 0.01 * fitted.rotation[:2, 2]
    np.testing.assert_allclose(bent.columns - placed.columns, step[0], atol=1e-6)
    np.testing.assert_allclose(bent.rows - placed.rows, -step[1], atol=1e-6)


# The outline


def test_the_expected_outline_is_the_furthest_column_in_sight(head):
    places = g.look_up(head, seen(head, (50, 0, 0)), None)
    for side in (-1.0, 1.0):
        furthest = {}
        for beside, margin, row, column in zip(*(np.ravel(part) for part in (places.beside, places.margin, places.rows, places.columns))):
            if beside < 0.001 and margin > -5 and -4 < row < SIZE + 4:
                band = min(max(int(np.round(row / 4)), 0), 56)
                furthest[band] = max(furthest.get(band, -np.inf), side * column)
        bands = sorted(furthest)
        expected = np.interp((2 * np.arange(112) + 0.5) / 4, bands, [furthest[band] for band in bands])
        np.testing.assert_allclose(g._expected_outline(places, side), expected, atol=1e-9)


def test_no_outline_of_a_face_that_is_hardly_in_the_picture(head):
    places = g.look_up(head, replace(seen(head, (50, 0, 0)), shift=np.array([112.0, 330.0])), None)
    assert g._expected_outline(places, 1.0) is None and g.find_outline(noise(SIZE, SIZE, 3), places, 1.0) is None


def test_the_colours_of_a_side_are_weighted_means_of_the_rows_around():
    colours, weight = noise(112, 49, 3).astype(float), (noise(112, 49, seed=1) > 90).astype(float)
    mean, spread, count = g._side(colours, weight)
    rows = np.zeros(112)
    rows[60] = 1
    share = gaussian_filter1d(rows, 5, mode="nearest")[:, None] * weight
    assert count[60] == pytest.approx(share.sum(), rel=1e-6)
    total = share.sum() + 1e-3
    middle = (share[..., None] * colours).sum((0, 1)) / total
    np.testing.assert_allclose(mean[60, 0], middle, rtol=1e-6)
    np.testing.assert_allclose(spread[60, 0], (share[..., None] * colours**2).sum((0, 1)) / total - middle**2, rtol=1e-6)
    assert mean.shape == spread.shape == (112, 1, 3)


@pytest.mark.parametrize("shift", [-8, -3, 0, 5, 9])
def test_an_outline_is_found_where_the_colours_change(shift):
    rng = np.random.default_rng(0)
    skin, behind = np.array([190.0, 150, 130]), np.array([40.0, 60, 90])
    colours = np.where((g._OFFSETS < shift)[None, :, None], skin, behind) + rng.normal(0, 4, (112, 49, 3))
    off = g._boundary(colours, np.ones((112, 49)))
    assert np.abs(off - shift).mean() < 1.01  # the column before the change, or the one after


def test_without_a_change_of_colour_the_outline_is_where_the_head_says():
    grey = 120 + np.random.default_rng(0).normal(0, 3, (112, 49, 3))
    assert np.abs(g._boundary(grey, np.ones((112, 49)))).max() < 2.5


def test_the_outline_of_a_faint_edge_is_where_it_was():
    """Numbers of the code of 0.2.0, for what is tuned and no closed form tells."""
    rng = np.random.default_rng(3)
    edge = np.round(4 * np.sin(np.arange(112) / 15))
    faint = np.where((g._OFFSETS < edge[:, None])[..., None], [170.0, 140, 125], [120.0, 118, 110]) + rng.normal(0, 14, (112, 49, 3))
    there = np.ones((112, 49))
    there[:, :5] = 0
    kept = [0.0, 2.6329, 2.9913, 0.8546, -2.3224, -4.367, -4.9553, -2.6406, 0.3594]
    np.testing.assert_allclose(g._boundary(faint, there)[4::12], kept, atol=2e-4)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_an_outline_in_a_picture_is_found_on_either_side(head, side):
    places = g.look_up(head, seen(head, (side * 45, 0, 0), scale=900.0), None)
    expected = g._expected_outline(places, side)
    columns = np.arange(SIZE)
    edge = np.repeat(expected, 2) + 6  # three of every other column further out
    pixels = np.where((side * columns < edge[:, None])[..., None], [200.0, 160, 140], [30.0, 50, 80]).astype(np.float32)
    told, found = g.find_outline(pixels, places, side)
    np.testing.assert_allclose(told, expected)
    rows = slice(25, 85)  # where the face is
    assert np.abs(found - told - 6)[rows].mean() < 2


def test_a_soft_step():
    np.testing.assert_allclose(g._soft(np.array([0.0, 2, 3, 4, 5, 6, 9]), 2, 6), [0, 0, 5 / 32, 0.5, 27 / 32, 1, 1])


def flat_places(margin, columns=None):
    across, down = np.meshgrid(np.linspace(20, 200, 81), np.linspace(20, 200, 81))
    return g.Places(across if columns is None else columns, down, np.full((81, 81), float(margin)), np.zeros((81, 81)))


@pytest.mark.parametrize(("margin", "inward"), [(60, 0), (45, 0), (22.5, 1.25), (0, 5), (-30, 5)])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_places_keep_a_distance_from_what_is_hidden(margin, inward, side):
    places = flat_places(margin)
    kept = g.keep_inside(places, None, side)
    np.testing.assert_allclose(kept.columns, places.columns - side * inward, atol=1e-9)
    np.testing.assert_array_equal(kept.rows, places.rows)


def test_the_narrowest_margin_around_counts():
    margin = np.full((81, 81), 90.0)
    margin[40, 40] = 0
    places = flat_places(0)._replace(margin=margin)
    inward = places.columns - g.keep_inside(places, None, 1.0).columns
    seven = np.full((81, 81), 90.0)
    seven[37:44, 37:44] = 0
    np.testing.assert_allclose(inward, 5 * np.clip(1 - gaussian_filter(seven, 1) / 45, 0, 1) ** 2, atol=1e-9)


def test_inside_the_outline_places_stay_and_at_the_outline_they_follow_it():
    places, outline = flat_places(0), np.stack([np.full(112, 150.0), np.full(112, 130.0)])  # expected at 150, found at 130
    kept = g.keep_inside(places, outline, 1.0).columns
    pull = np.exp(-(((150 - places.columns).clip(0) / 20) ** 2))
    np.testing.assert_allclose(kept, np.minimum(places.columns - (1 - pull) * 5 + pull * (128 - 150), 128), atol=1e-9)
    assert kept.max() == 128
    left = g.keep_inside(places._replace(columns=-places.columns), outline, -1.0).columns
    np.testing.assert_allclose(left, -kept, atol=1e-9)


# The frame


def test_places_of_the_face_as_cells_of_the_grid():
    right, up = np.meshgrid(np.linspace(-0.14, 0.14, 57), np.linspace(0.12, -0.16, 57))
    (rows, mirrored_rows), (columns, mirrored_columns) = g.cells_of(right, up)
    np.testing.assert_allclose(rows, np.linspace(0, 80, 57)[:, None] * np.ones(57), atol=1e-9)
    np.testing.assert_allclose(columns, rows.T, atol=1e-9)
    np.testing.assert_array_equal(mirrored_rows, rows)
    np.testing.assert_allclose(mirrored_columns, 80 - columns, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (0.6, 1), (1, 0.7)])
@pytest.mark.parametrize("roll", [0, 20, -35])
def test_a_face_stands_in_the_view_as_it_stood(head, roll, shape):
    fitted = seen(head, (0, 0, roll))
    (rows, _), (columns, _) = g.own_frame(fitted, shape)
    y, x = np.mgrid[:57, :57] * (SIZE - 1) / 56 + 0.5
    plane = fitted.scale * np.stack([columns * g._STEP - 0.14, 0.12 - rows * g._STEP], -1) @ fitted.rotation[:2, :2].T  # a flat face
    there = g._FEATURES @ fitted.project(head.landmarks) - fitted.scale * fitted.rotation[:2, :2] @ (g._FEATURES @ head.landmarks[:, :2])
    np.testing.assert_allclose((plane + there) * [1, -1], np.stack([x * shape[0], y * shape[1]], -1), atol=1e-6)


def test_a_profile_is_seen_upright_whatever_its_roll(head):
    upright, rolled = (g.own_frame(seen(head, (90, 0, roll))) for roll in (0, 30))
    step = [np.diff(columns, axis=1).mean() for (_, _), (columns, _) in (upright, rolled)]
    assert step[1] == pytest.approx(step[0], rel=1e-6)


def test_a_coarse_map_is_stretched_linearly():
    rows, columns = np.mgrid[:57, :57]
    expected = np.mgrid[:SIZE, :SIZE] * 56 / (SIZE - 1)
    np.testing.assert_allclose(g._fine((3 * rows - 2 * columns + 1).astype(float)), 3 * expected[0] - 2 * expected[1] + 1, atol=1e-3)
    several = g._fine(np.stack([rows, columns], -1).astype(float))
    np.testing.assert_allclose(several, np.moveaxis(expected, 0, -1), atol=1e-3)
    bumps = noise(57, 57)
    np.testing.assert_allclose(g._fine(bumps), map_coordinates(bumps, expected, order=1), atol=1e-3)


# Pixels


def test_pixels_between_pixels():
    pixels, rng = noise(30, 40, 3), np.random.default_rng(1)
    rows, columns = rng.uniform(-5, 35, 500), rng.uniform(-5, 45, 500)
    expected = np.stack([map_coordinates(channel, [rows, columns], order=1, mode="nearest") for channel in np.moveaxis(pixels, -1, 0)], -1)
    np.testing.assert_allclose(g._sample(pixels, rows, columns), expected, atol=1e-3)


def test_a_blur_leaves_colours_apart():
    pixels = noise(20, 20, 3)
    for channel in range(3):
        np.testing.assert_allclose(g._blurred(pixels, 2)[..., channel], gaussian_filter(pixels[..., channel], 2, mode="nearest"), atol=1e-3)


def test_what_is_inside_the_picture():
    at = np.array([0, 100, 223, 225, 227, 228, -2, -4.5])
    np.testing.assert_allclose(g._inside(at, np.full(8, 50.0)), [1, 1, 1, 0.5, 0, 0, 0.5, 0])
    np.testing.assert_allclose(g._inside(np.full(8, 50.0), at), [1, 1, 1, 0.5, 0, 0, 0.5, 0])


@pytest.mark.parametrize(("own", "mirrored"), [(100, 80), (80, 100), (200, 20), (10, 240)])
def test_the_mirrored_half_is_lit_as_the_other(own, mirrored):
    light = g._light(np.full((57, 57, 3), float(own)), np.full((57, 57, 3), float(mirrored)), np.ones((57, 57)))
    np.testing.assert_allclose(light, np.exp(np.clip(np.log((own + 8) / (mirrored + 8)) / 1.05, -0.7, 0.7)), rtol=1e-6)
    dark = g._light(np.full((57, 57, 3), float(own)), np.full((57, 57, 3), float(mirrored)), np.zeros((57, 57)))
    np.testing.assert_array_equal(dark, 1)


def test_light_is_taken_from_where_both_are_in_sight():
    own, both = noise(57, 57, 3).astype(float), np.zeros((57, 57))
    both[20:30, 20:30] = 1
    light = g._light(own, own * 0.5, both)
    share = gaussian_filter(both, 5, mode="nearest")
    ratio = gaussian_filter(np.log((own[..., 0] + 8) / (own[..., 0] * 0.5 + 8)) * both, 5, mode="nearest")
    np.testing.assert_allclose(light[..., 0], np.exp(np.clip(ratio / (share + 0.05), -0.7, 0.7)), rtol=1e-6)


def test_a_hole_takes_the_colours_around_it():
    pixels, known = noise(57, 57, 3).astype(float), (noise(57, 57, 1, seed=2) > 120).astype(float)
    near, far = ([gaussian_filter(each, sigma) for each in (pixels[..., 0] * known[..., 0], known[..., 0])] for sigma in (1.5, 6))
    total = [one + 0.02 * other + 1e-6 for one, other in zip(near, far, strict=True)]
    found = g._neighbourhood(pixels, known)
    np.testing.assert_allclose(found[10:-10, 10:-10, 0], (total[0] / total[1])[10:-10, 10:-10], rtol=2e-3)
    np.testing.assert_allclose(g._neighbourhood(np.full((57, 57, 3), 70.0), np.ones((57, 57, 1))), 70, atol=1e-3)


# The halves


def aligned_parts(own=1.0, both=1.0, beside=0.0):
    "Every place of the view shows itself, and its mirror image."
    place = np.linspace(0.5, SIZE - 0.5, 57)
    columns, rows = np.meshgrid(place, place)
    full = np.ones((57, 57))
    return g.Halves(
        np.stack([rows, rows]),
        np.stack([columns, SIZE - columns]),
        np.ones((2, 57, 57)),
        full * own,
        full * both,
        full * beside,
    )


def frontal_grid(margin):
    "Places of a face that stands flat in the picture, `margin` (81, 81) or a number."
    across, down = np.meshgrid(np.linspace(30, 190, 81), np.linspace(30, 190, 81))
    return g.Places(across, down, np.zeros((81, 81)) + margin, np.zeros((81, 81)))


def full_view():
    right, up = np.meshgrid(np.linspace(-0.14, 0.14, 57), np.linspace(0.12, -0.16, 57))
    return g.cells_of(right, up), right


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_half_in_sight_is_shown_and_of_the_hidden_one_the_mirror_image(side):
    cells, right = full_view()
    parts = g.halves(cells, frontal_grid(0.0), side)
    far = side * right
    own = 1 - g._soft(far, -0.004, 0.004)
    np.testing.assert_allclose(parts.own, (own + 1e-6) / (own + 1 - own + 1e-3 + 2e-6), atol=1e-6)
    np.testing.assert_array_equal(parts.both, 0)  # nothing is in sight by five degrees
    np.testing.assert_allclose(parts.columns[0] + parts.columns[1], 220, atol=1e-4)
    np.testing.assert_allclose(parts.rows[0], parts.rows[1], atol=1e-4)
    np.testing.assert_array_equal(parts.inside, 1)


@pytest.mark.parametrize(("margin", "trust", "both"), [(8, 0, 0), (15, 0, 0.5), (18, 0.5, None), (28, 1, 1), (60, 1, 1)])
def test_what_is_safely_in_sight_is_shown_on_the_far_side_too(margin, trust, both):
    cells, right = full_view()
    parts = g.halves(cells, frontal_grid(float(margin)), 1.0)
    far = right > 0.005
    share = g._soft(np.array(float(margin)), 8, 28)
    assert share == pytest.approx(trust, abs=0.3)
    np.testing.assert_allclose(parts.own[far], share / (share + 1 - share + 1e-3), atol=1e-4)
    if both is not None:
        np.testing.assert_allclose(parts.both, g._soft(np.array(float(margin)), 5, 25) ** 2, atol=1e-6)
        assert both == pytest.approx(parts.both[0, 0], abs=0.26)


def test_beyond_the_picture_the_other_half_is_shown():
    cells, _ = full_view()
    places = frontal_grid(60.0)
    places = places._replace(columns=places.columns + 60)  # the right of the face is cut
    parts = g.halves(cells, places, 1.0)
    cut = parts.columns[0] > SIZE + 4
    assert cut.any() and (parts.own[cut] < 0.01).all() and (parts.both[cut] == 0).all() and (parts.inside[0][cut] == 0).all()


def test_nothing_of_both_beside_the_head():
    cells, _ = full_view()
    places = frontal_grid(60.0)._replace(beside=np.full((81, 81), 0.002))
    assert g.halves(cells, places, 1.0).both.max() == 0
    assert g.halves(cells, places._replace(beside=np.full((81, 81), 0.0019)), 1.0).both.min() == 1


# The view


def test_a_view_of_its_own_places_is_the_picture():
    pixels = gaussian_filter(noise(SIZE, SIZE, 3), (6, 6, 0))
    view, _ = g.compose(pixels, aligned_parts(own=1.0), 1.0)
    place = np.linspace(0.5, SIZE - 0.5, SIZE)
    np.testing.assert_allclose(view, g._sample(pixels, *np.meshgrid(place, place, indexing="ij")), atol=0.01)


def test_the_mirrored_half_is_brightened_and_mixed_at_the_seam():
    rng = np.random.default_rng(0)
    pixels = np.float32(90) + gaussian_filter(rng.normal(0, 400, (SIZE, SIZE, 3)).astype(np.float32), (6, 6, 0))
    pixels[:, SIZE // 2 :] *= 0.7
    place = np.linspace(0.5, SIZE - 0.5, SIZE)
    rows, columns = np.meshgrid(place, place, indexing="ij")
    coarse = pixels.reshape(56, 4, 56, 4, 3).mean((1, 3))
    parts = aligned_parts()
    own, other = (g._sample(coarse, (parts.rows[half] - 1.5) / 4, (parts.columns[half] - 1.5) / 4) for half in (0, 1))
    bright = g._fine(g._light(own, other, parts.both))
    mirrored = g._sample(pixels, rows, SIZE - columns) * bright
    for share in (0.0, 0.3, 0.7, 1.0):
        view, asymmetry = g.compose(pixels, aligned_parts(own=share), 1.0)
        np.testing.assert_allclose(view, share * g._sample(pixels, rows, columns) + (1 - share) * mirrored, atol=0.02)
        assert asymmetry == pytest.approx(g._disagreement(own, other * g._light(own, other, parts.both), parts.both), rel=1e-5)


def test_a_hole_in_the_view_is_filled_from_its_surroundings():
    pixels = np.full((SIZE, SIZE, 3), 100, np.float32)
    parts = aligned_parts()
    inside = np.ones((2, 57, 57))
    inside[:, 20:30, 20:30] = 0
    rows = parts.rows.copy()
    pixels[90:110, 90:110] = 255  # what the hole would show
    rows[:, 20:30, 20:30] = 100
    columns = parts.columns.copy()
    columns[:, 20:30, 20:30] = 100
    view, _ = g.compose(pixels, parts._replace(rows=rows, columns=columns, inside=inside, both=np.zeros((57, 57))), 1.0)
    assert view[86:110, 86:110].max() < 140 and view[:60].max() == pytest.approx(100, abs=0.1)
    whole, _ = g.compose(pixels, parts._replace(rows=rows, columns=columns, both=np.zeros((57, 57))), 1.0)
    assert whole[90:106, 90:106].min() > 240


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_beside_the_head_stands_the_background_of_the_side_it_looks_to(side):
    pixels, view = noise(SIZE, SIZE, 3), noise(SIZE, SIZE, 3, seed=1)
    np.testing.assert_array_equal(g._with_background(view, pixels, np.zeros((57, 57)), side), view)
    beyond = g._with_background(view, pixels, np.ones((57, 57)), side)
    half = pixels[:, 112:] if side > 0 else pixels[:, :112]
    expected = np.concatenate([half[:, ::-1], half] if side > 0 else [half, half[:, ::-1]], 1)
    np.testing.assert_allclose(beyond, expected, atol=1e-3)
    between = g._with_background(view, pixels, np.full((57, 57), 0.0035), side)  # half way from 1 to 6 mm
    np.testing.assert_allclose(between, (view + expected) / 2, atol=0.1)


def test_how_much_the_halves_disagree():
    own, mirrored, both = noise(57, 57, 3).astype(float), noise(57, 57, 3, seed=1).astype(float), noise(57, 57, seed=2) / 255.0
    weights = np.repeat(both[..., None], 3, 2)
    mean = np.stack([np.average(own[..., channel], weights=both) for channel in range(3)])
    contrast = np.sqrt(np.average((own - mean) ** 2, weights=weights))
    expected = np.average(np.abs(own - mirrored), weights=weights) / (contrast + 4)
    assert g._disagreement(own, mirrored, both) == pytest.approx(expected, rel=1e-6)
    little = np.zeros((57, 57))
    little[:4, :5] = 1
    assert np.isnan(g._disagreement(own, mirrored, little))  # twenty places
    little[5, 5] = 0.5
    assert np.isfinite(g._disagreement(own, mirrored, little))


def test_the_prototype_mixes_both_halves_by_how_far_a_place_is_in_sight():
    cells, _ = full_view()
    pixels = gaussian_filter(noise(SIZE, SIZE, 3), (4, 4, 0))
    rows, columns = (g._fine(map_coordinates(values, cells[:, 0], order=1)) for values in (frontal_grid(0).rows, frontal_grid(0).columns))
    own, mirrored = g._sample(pixels, rows, columns), g._sample(pixels, rows, 220 - columns)
    for margin, share in ((-20, 0), (5, 0), (15, 0.5), (25, 1), (80, 1)):
        view = g.soft_mirror(pixels, cells, frontal_grid(float(margin)))
        np.testing.assert_allclose(view, share * own + (1 - share) * mirrored, atol=0.05)


# What is told of a view


def test_how_badly_the_head_fits(head):
    fitted = seen(head, (35, 2, 1))
    off = np.random.default_rng(0).normal(0, 3, (68, 2))
    weight = sight(head.landmarks, fitted.rotation)
    height = 1150 * (head.landmarks[17:27, 1].mean() - head.landmarks[8, 1])
    expected = np.sqrt((weight * (off**2).sum(1)).sum() / weight.sum()) / height
    assert g.misfit(fitted, marked(fitted) + off) == pytest.approx(expected, rel=1e-9)
    assert g.misfit(fitted, marked(fitted)) == pytest.approx(0, abs=1e-12)


def test_the_share_of_the_face_that_is_in_the_picture(head):
    fitted = seen(head, (20, 0, 0), scale=800.0)
    whole = g.look_up(head, fitted, None)
    assert g.share_inside(fitted, whole) == 1
    away = whole._replace(columns=whole.columns + 2000)
    assert g.share_inside(fitted, away) == 0
    assert g.share_inside(fitted, whole._replace(margin=np.full((81, 81), -1.0))) == 0
    top, chin = head.landmarks[17:27, 1].max(), head.landmarks[8, 1]
    cut = whole._replace(columns=whole.columns + 110)
    counted = [
        float(np.clip(1 - max(abs(row - 111.5) - 111.5, abs(column - 111.5) - 111.5) / 4, 0, 1))
        for up, rows, columns, margins, besides in zip(g._DOWN, cut.rows, cut.columns, cut.margin, cut.beside, strict=True)
        for row, column, margin, beside in zip(rows, columns, margins, besides, strict=True)
        if chin < up < top and margin > 0 and beside == 0
    ]
    assert 0.05 < np.mean(counted) < 0.95 and g.share_inside(fitted, cut) == pytest.approx(np.mean(counted), rel=1e-9)


# The whole


def test_the_method_and_its_baseline_are_told_apart():
    method, baseline = g.geometric(), g.plain()
    assert method.id.split(":")[0] == "geometric" and baseline.id.split(":")[0] == "geometric-plain"
    assert method.id.split(":")[1] == baseline.id.split(":")[1] and method.id.count("@") == 1


def test_they_are_found_by_name_and_the_baseline_is_a_yardstick():
    told = {name: (frontalizer[name].help, frontalizer[name].facts) for name in ("geometric", "plain")}
    assert told == {"geometric": ("geometric", {}), "plain": ("plain", {"yardstick": True})}


@pytest.mark.parametrize("size", [(200, 100), (120, 200)])
def test_places_are_those_of_the_squeezed_picture(size, monkeypatch):
    frontalizer, taken = g.Geometric(plain=True, workers=1), {}
    real, drawn = g.look_up, g.soft_mirror
    monkeypatch.setattr(g, "look_up", lambda *given: taken.setdefault("real", real(*given)))
    monkeypatch.setattr(g, "soft_mirror", lambda pixels, cells, places: drawn(pixels, cells, taken.setdefault("squeezed", places)))
    landmarks = see_flat(frontalizer._head) * max(size) / SIZE
    frontalizer.frontalize([Image.new("RGB", size)], ["k"], np.array([[20.0, 0, 0]]), landmarks[None])
    width, height = np.array(size) / max(size)
    found, expected = taken["squeezed"], taken["real"]
    np.testing.assert_allclose(found.columns + 0.5, (expected.columns + 0.5) / width, atol=1e-9)
    np.testing.assert_allclose(found.rows + 0.5, (expected.rows + 0.5) / height, atol=1e-9)


def see_flat(head):
    return marked(seen(head, (20, 0, 0), scale=500.0))


def test_a_view_is_rounded_and_kept_between_black_and_white():
    frontalizer = g.Geometric(workers=1)

    def told(view):
        frontalizer._view = lambda *given: (np.full((SIZE, SIZE, 3), view), {"misfit": 1.0})
        (found,) = frontalizer.frontalize([Image.new("RGB", (50, 40))], ["k"], np.zeros((1, 3)), np.full((1, 68, 2), 9.0))
        return found

    assert [told(view).getpixel((3, 3))[0] for view in (-7.0, 254.4, 254.6, 255.4, 256.0, 900.0)] == [0, 254, 255, 255, 255, 255]
    assert told(3.0).size == (SIZE, round(SIZE * 0.8)) and told(3.0).info == {"misfit": 1.0}


@pytest.mark.parametrize("size", [(200, 100), (100, 200)])
@pytest.mark.parametrize("plain", [True, False])
def test_without_landmarks_a_face_is_looked_for_in_the_middle_of_any_picture(size, plain, monkeypatch):
    frontalizer, taken = g.Geometric(plain=plain, workers=1), []
    real = g.look_up
    monkeypatch.setattr(g, "look_up", lambda head, fitted, landmarks: taken.append((fitted, landmarks)) or real(head, fitted, landmarks))
    frontalizer.frontalize([Image.new("RGB", size, (90, 80, 70))], ["k"], np.array([[40.0, 0, 0]]), np.full((1, 68, 2), np.nan))
    ((fitted, landmarks),) = taken
    square = fit_rigid(frontalizer._head, np.array([40.0, 0, 0]), np.full((68, 2), np.nan))
    assert landmarks is None
    if plain:
        np.testing.assert_allclose(fitted.shift, square.shift + 112 * (np.array(size) / 200 - 1) * [1, -1])
        assert (fitted.scale, fitted.rotation.tolist()) == (square.scale, square.rotation.tolist())
    seen = fitted.project(fitted.points)[17:] * [1, -1]
    np.testing.assert_allclose((seen[:, 0].min() + seen[:, 0].max()) / 2, 112 * size[0] / 200, atol=1)
