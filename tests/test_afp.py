"""AFP: scikit-learn's contract, closed forms, degenerate features, the size of the PCA, what is refused."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import RobustScaler, StandardScaler, normalize
from sklearn.utils.estimator_checks import check_estimator

from qcfer.classify.afp import AFP, adaptive_components, location_scale

@pytest.fixture(scope="module")
def features():
    "Six hundred rows, forty correlated features of very different loudness, every fifth silent for nine rows in ten."
    rng = np.random.default_rng(7)
    X = rng.normal(size=(600, 12)) @ rng.normal(size=(12, 40)) + rng.normal(scale=0.3, size=(600, 40))
    X *= 10 ** rng.uniform(-3, 1, 40)
    X[:, ::5] = np.maximum(X[:, ::5] - np.quantile(X[:, ::5], 0.9, axis=0), 0)
    return X


@pytest.mark.parametrize(
    "estimator",
    [AFP(), AFP(whiten=True), AFP(n_components=None), AFP(scaling="standard", normalize=False), AFP(scaling=None)],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_checks_pass_in_full(estimator):
    check_estimator(estimator)


@pytest.mark.parametrize(
    "rows, width, expected",
    [(28_709, 1280, 512), (12_271, 768, 512), (5_000, 768, 512), (4_999, 768, 256), (511, 768, 255), (300, 64, 64), (3, 9, 1)],
)
def test_the_papers_sizes(rows, width, expected):
    assert adaptive_components(rows, width) == expected


@given(st.integers(2, 10**6), st.integers(1, 4096))
def test_a_size_is_always_possible_and_never_above_half_the_rows(rows, width):
    k = adaptive_components(rows, width)
    assert 1 <= k <= min(rows, width, 512) and k <= max(1, rows // 2)
    assert rows >= 5_000 or k <= 256


def test_robust_scaling_is_scikit_learns_where_the_quartiles_see_something():
    X = np.random.default_rng(0).normal(3, [0.01, 1, 50], size=(500, 3))
    ours, theirs = AFP(normalize=False, n_components=None).fit(X), RobustScaler().fit(X)
    assert ours.center_ == pytest.approx(theirs.center_)
    assert ours.scale_ == pytest.approx(theirs.scale_)
    assert ours.transform(X) == pytest.approx(theirs.transform(X))
    assert not ours.degenerate_.any()


def test_standard_scaling_is_scikit_learns(features):
    ours = AFP(normalize=False, scaling="standard", n_components=None).fit_transform(features)
    assert ours == pytest.approx(StandardScaler().fit_transform(features))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.25])
def test_a_feature_that_seldom_fires_is_scaled_by_its_standard_deviation(share):
    "At most a quarter of the rows fire, so the quartiles are both zero."
    column = np.zeros(400)
    column[: int(share * 400)] = np.random.default_rng(1).exponential(size=int(share * 400)) + 1e-3
    _, scale, degenerate = location_scale(column[:, None], "robust")
    assert degenerate[0]
    assert scale[0] == pytest.approx(column.std() if share else 1)


def test_a_tiny_quartile_range_counts_as_none():
    X = np.random.default_rng(2).normal(size=(1000, 2))
    X[:900, 1] *= 1e-6
    _, scale, degenerate = location_scale(X, "robust")
    assert degenerate.tolist() == [False, True]
    assert scale[1] == pytest.approx(X[:, 1].std())


def test_no_feature_is_blown_up(features):
    "Divided by their own quartile ranges, silent features would be infinite and drown every other."
    unit = normalize(features)
    assert (np.subtract(*np.percentile(unit[:, ::5], [75, 25], axis=0)) == 0).all()
    scaled = AFP(n_components=None).fit_transform(features)
    assert np.isfinite(scaled).all() and scaled.std(0).max() < 1.01


@given(arrays(np.float64, st.tuples(st.integers(2, 30), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32)))
def test_scales_are_finite_and_above_zero(X):
    for scaling in ("robust", "standard", None):
        centre, scale, degenerate = location_scale(X, scaling)
        assert np.isfinite(centre).all() and (scale > 0).all() and np.isfinite(scale).all()
        assert degenerate.dtype == bool and (scaling == "robust" or not degenerate.any())


@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_a_wide_set_is_looked_at_in_parts_and_found_as_a_whole(scaling):
    rng = np.random.default_rng(7)
    X, lengths = rng.normal(size=(50, 150)) * 10.0 ** rng.uniform(-2, 2, 150), rng.uniform(1, 9, 50)
    whole, alone = location_scale(X, scaling), [location_scale(X[:, [column]], scaling) for column in range(150)]
    for found, columns in zip(whole, zip(*alone)):
        np.testing.assert_allclose(found, np.concatenate(columns), rtol=1e-9, atol=1e-12)
    for found, expected in zip(location_scale(X, scaling, lengths), location_scale(X / lengths[:, None], scaling)):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_small_spread_on_a_high_ground_is_scaled_and_rounding_is_not():
    X = np.column_stack([1e6 + np.linspace(-1, 1, 40), np.full(40, 0.1), 1e8 + np.tile([0, 1e-8], 20)])
    for scaling in ("robust", "standard"):
        scale, degenerate = location_scale(X, scaling)[1:]
        assert scale[0] == pytest.approx(1 if scaling == "robust" else np.linspace(-1, 1, 40).std(), rel=1e-6)
        assert scale[1:].tolist() == [1, 1] and degenerate.tolist() == [False, scaling == "robust", scaling == "robust"]


@pytest.mark.parametrize("size", [None, 5, "adaptive"])
@pytest.mark.parametrize("scaling", ["robust", None])
def test_one_number_brings_the_mean_variance_to_one(features, size, scaling):
    afp = AFP(n_components=size, scaling=scaling, unit=True)
    plain = clone(afp).set_params(unit=False).fit_transform(features)
    assert afp.fit_transform(features).var(0).mean() == pytest.approx(1)
    assert afp.fit_transform(features) * afp.unit_ == pytest.approx(plain) and afp.unit_ != 1
    white = AFP(n_components=5, whiten=True, unit=True).fit(features)
    assert white.unit_ == 1 and AFP().fit(features).unit_ == 1


def test_where_nothing_varies_nothing_is_divided():
    same = AFP(n_components=None, unit=True).fit(np.ones((6, 3)))
    assert same.unit_ == 1 and same.scale_.tolist() == [1, 1, 1]
    assert same.transform([[1, 1, 1]]) == pytest.approx(np.zeros((1, 3)))
    nothing = np.random.default_rng(8).normal(size=(30, 4))
    nothing[3] = 0  # a row of no length stays where it is
    afp = AFP(n_components=None, scaling=None).fit(nothing)
    assert afp.transform(nothing)[3].tolist() == [0, 0, 0, 0]
    assert AFP(scaling="standard").fit(nothing).center_ == pytest.approx(normalize(nothing).mean(0))


def test_features_beyond_a_piece_of_rows_are_the_same():
    X = np.random.default_rng(9).normal(size=(2100, 6)) * [1, 2, 3, 4, 5, 6]
    for whiten in (False, True):
        afp = AFP(n_components=4, whiten=whiten).fit(X)
        alone = np.concatenate([afp.transform(X[[row]]) for row in (0, 1023, 1024, 2047, 2048, 2099)])
        np.testing.assert_allclose(afp.transform(X)[[0, 1023, 1024, 2047, 2048, 2099]], alone, rtol=1e-9, atol=1e-12)
        scaled = (normalize(X) - np.median(normalize(X), 0)) / np.subtract(*np.percentile(normalize(X), [75, 25], axis=0))
        assert np.abs(afp.transform(X)) == pytest.approx(np.abs(PCA(4, whiten=whiten).fit_transform(scaled)), abs=1e-6)


@pytest.mark.parametrize("rows", [600, 25], ids=["more rows than features", "more features than rows"])
@pytest.mark.parametrize("whiten", [False, True])
def test_the_chain_is_scikit_learns(features, rows, whiten):
    X = features[:rows]
    afp = AFP(whiten=whiten, n_components=10).fit(X)
    scaled = (normalize(X) - afp.center_) / afp.scale_
    reference = PCA(10, svd_solver="full", whiten=whiten).fit(scaled)
    assert np.abs(afp.transform(features)) == pytest.approx(
        np.abs(reference.transform((normalize(features) - afp.center_) / afp.scale_)), abs=1e-7
    )
    assert afp.explained_variance_ratio_ == pytest.approx(reference.explained_variance_ratio_)


def test_the_variance_curve_covers_every_direction(features):
    afp = AFP(n_components=5).fit(features)
    assert afp.components_.shape == (5, 40) and afp.cumulative_variance_.shape == (40,)
    assert (np.diff(afp.cumulative_variance_) >= -1e-12).all()
    assert afp.cumulative_variance_[-1] == pytest.approx(1)
    assert afp.cumulative_variance_[:5] == pytest.approx(np.cumsum(afp.explained_variance_ratio_))
    assert afp.components_ @ afp.components_.T == pytest.approx(np.eye(5), abs=1e-10)


def test_whitened_directions_are_uncorrelated_with_variance_one(features):
    white = AFP(n_components=20, whiten=True).fit_transform(features)
    assert np.cov(white.T) == pytest.approx(np.eye(20), abs=1e-8)


def test_whitening_does_not_blow_up_directions_without_variance():
    X = np.random.default_rng(4).normal(size=(200, 3)) @ np.random.default_rng(5).normal(size=(3, 30))
    white = AFP(normalize=False, whiten=True).fit_transform(X.astype(np.float32))
    assert np.isfinite(white).all() and np.abs(white[:, 3:]).max() < 10


def test_float32_stays_float32_and_agrees_with_float64(features):
    afp = AFP(n_components=8)
    single = clone(afp).fit_transform(features.astype(np.float32))
    double = clone(afp).fit_transform(features)
    assert single.dtype == np.float32 and double.dtype == np.float64
    fitted = clone(afp).fit(features.astype(np.float32))
    assert {fitted.center_.dtype, fitted.scale_.dtype, fitted.mean_.dtype} == {np.dtype(np.float32)}
    assert {fitted.components_.dtype, fitted.cumulative_variance_.dtype} == {np.dtype(np.float64)}
    assert fitted.explained_variance_ratio_.base is None  # so that the whole curve is not kept for its beginning
    assert np.abs(single) == pytest.approx(np.abs(double), abs=2e-3)


@settings(max_examples=25)
@given(st.floats(1e-3, 1e3))
def test_the_length_of_a_row_says_nothing(factor):
    X = np.random.default_rng(6).normal(size=(60, 8))
    stretched = X * np.linspace(1, factor, 60)[:, None]
    assert AFP().fit_transform(stretched) == pytest.approx(AFP().fit_transform(X), abs=1e-6)


def test_rows_that_were_not_fitted_change_nothing(features):
    afp = AFP().fit(features[:300])
    whole = afp.transform(features)
    assert afp.transform(features[300:]) == pytest.approx(whole[300:], abs=1e-9)
    assert clone(afp).fit(features).center_ != pytest.approx(afp.center_)


def test_whole_numbers_are_no_less_than_others_and_what_was_not_fitted_transforms_nothing():
    counts = np.random.default_rng(10).integers(0, 9, (40, 5))
    afp = AFP(n_components=3).fit(counts)
    assert afp.transform(counts) == pytest.approx(afp.transform(counts.astype(float))) and afp.transform(counts).dtype == np.float64
    with pytest.raises(NotFittedError):
        AFP().transform(counts)


def test_names_of_what_comes_out(features):
    assert AFP(n_components=3).fit(features).get_feature_names_out().tolist() == ["afp0", "afp1", "afp2"]
    assert len(AFP(n_components=None).fit(features).get_feature_names_out()) == 40


def test_without_pca_there_is_no_curve(features):
    afp = AFP(n_components=None).fit(features)
    assert afp.n_components_ == 40 and afp.components_ is None and afp.cumulative_variance_ is None


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"scaling": "minmax"}, "expected scaling 'robust', 'standard' or None; found 'minmax'"),
        ({"n_components": 0}, "1 to 40"),
        ({"n_components": 41}, "1 to 40, as many as 600 rows of 40 features allow; found 41"),
        ({"n_components": 0.9}, "1 to 40"),
        ({"n_components": "mle"}, "found 'mle'"),
        ({"n_components": None, "whiten": True}, "expected a PCA to whiten"),
    ],
)
def test_bad_parameters_are_named(features, parameters, words):
    with pytest.raises(ValueError, match=words):
        AFP(**parameters).fit(features)


def test_bad_features_are_named(features):
    with pytest.raises(ValueError, match="found 20 equal rows"):
        AFP().fit(np.ones((20, 4)))
    with pytest.raises(ValueError, match="NaN"):
        AFP().fit(np.where(np.arange(features.size).reshape(features.shape) == 9, np.nan, features))
    with pytest.raises(ValueError, match="minimum of 2"):
        AFP().fit(features[:1])
    with pytest.raises(ValueError, match="expecting 40 features"):
        AFP().fit(features).transform(features[:, :39])
