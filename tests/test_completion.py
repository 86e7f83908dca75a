"""Completion, against dense definitions of the least squares over the observed entries."""

import array_api_strict
import numpy as np
import pytest
from pymanopt.manifolds import Euclidean, FixedRankEmbedded, Product
from pymanopt.optimizers import TrustRegions
from scipy.sparse import coo_array, coo_matrix, csr_array, issparse

import riemdln.completion
from riemdln import DeepLinearMetric, FixedRank, FullRank, MatrixCompletion
from riemdln.checks import check_gradient, check_hessian
from riemdln.manifolds import FixedRankPoint


def dense(point):
    return point[0] * point[1] @ point[2]


def ambient(point, vector):
    (u, _, vt), (Up, M, Vp) = point, vector
    return u @ M @ vt + Up @ vt + u @ Vp.T


def completion_of(rng, m, n, k, share, **options):
    target = rng.standard_normal((m, k)) @ rng.standard_normal((k, n))
    seen = rng.random((m, n)) < share
    observed, test = (
        coo_array((target[part], np.nonzero(part)), shape=(m, n)) for part in (seen, ~seen)
    )
    return MatrixCompletion(observed, test, **options), target, seen


def entries(values, rows, columns, shape=(3, 4)):
    return coo_array((np.asarray(values), (rows, columns)), shape=shape)


@pytest.mark.parametrize("chunk_size", [7, 2**16])
def test_completion_is_least_squares_over_the_observed_entries(rng, chunk_size):
    completion, target, seen = completion_of(rng, 9, 7, 2, 0.5, chunk_size=chunk_size)
    manifold = FixedRank(9, 7, 2, DeepLinearMetric(2), rng=rng)
    problem, point = completion.problem(manifold), manifold.random_point()
    errors = np.where(seen, dense(point) - target, 0.0)
    assert problem.cost(point) == pytest.approx(np.sum(errors**2) / 2)
    np.testing.assert_allclose(completion.gradient(point).toarray(), errors, atol=1e-12)
    X = manifold.random_tangent_vector(point)
    along = completion.hessian_product(manifold.embedding(point, X)).toarray()
    np.testing.assert_allclose(along, np.where(seen, ambient(point, X), 0.0), atol=1e-12)
    assert completion.train_error(point) == pytest.approx(np.sqrt(np.mean(errors[seen] ** 2)))
    unseen = (dense(point) - target)[~seen]
    assert completion.test_error(point) == pytest.approx(np.sqrt(np.mean(unseen**2)))
    assert check_gradient(problem).slope == pytest.approx(2, abs=0.1)
    assert check_hessian(problem).slope == pytest.approx(3, abs=0.1)
    problem.euclidean_gradient(point)
    assert completion.latest_point[1] is point.s


def test_completion_on_other_manifolds_is_the_same(rng):
    completion, *_ = completion_of(rng, 6, 5, 2, 0.7)
    fixed = FixedRank(6, 5, 2, DeepLinearMetric(1), rng=rng)
    point = fixed.random_point()
    expected = completion.problem(fixed).riemannian_gradient(point)
    embedded = completion.problem(FixedRankEmbedded(6, 5, 2)).riemannian_gradient(point)
    for block, other in zip(embedded, expected, strict=True):
        np.testing.assert_allclose(block, other, atol=1e-11)
    full = completion.problem(FullRank(6, 5, DeepLinearMetric(1)))
    W, X = dense(point), rng.standard_normal((6, 5))
    assert full.cost(W) == pytest.approx(completion.cost(point))
    np.testing.assert_allclose(full.euclidean_gradient(W), completion.gradient(point).toarray())
    along = full.euclidean_hessian(W, X)
    np.testing.assert_array_equal(along != 0, full.euclidean_gradient(W) != 0)
    np.testing.assert_allclose(along[along != 0], X[along != 0])


def test_what_is_handed_out_is_the_callers(rng):
    completion, *_ = completion_of(rng, 9, 7, 2, 0.5)
    point = FixedRank(9, 7, 2, DeepLinearMetric(2), rng=rng).random_point()
    before = completion.cost(point)
    gradient = completion.gradient(point)
    gradient *= 2
    gradient.data[:5] = 0
    gradient.eliminate_zeros()
    assert completion.cost(point) == before
    shifted = FixedRankPoint(point.u, point.s + 1, point.vt)
    completion.cost(shifted)
    assert completion.cost(point) == before


def test_one_progress_bar_counts_the_gradients(rng, monkeypatch, capsys):
    bars = []

    class Recorded(riemdln.completion.tqdm):
        def __init__(self, *args, **options):
            bars.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr(riemdln.completion, "tqdm", Recorded)
    manifold = FixedRank(9, 7, 2, DeepLinearMetric(2), rng=rng)
    for progress, expected in ((False, 0), (True, 1)):
        completion, *_ = completion_of(rng, 9, 7, 2, 0.6, progress=progress)
        problem, point = completion.problem(manifold), manifold.random_point()
        assert not bars
        for _ in range(5):
            problem.euclidean_gradient(point)
        assert len(bars) == expected
    assert bars[0].n == 5
    assert bars[0].postfix == f"training error {completion.train_error(point):.4g}"
    assert "gradients" in capsys.readouterr().err


def test_the_spectral_point_fits_in_the_sense_of_least_squares(rng):
    completion, *_ = completion_of(rng, 9, 7, 2, 0.6)
    point = completion.spectral_point(2)
    costs = [
        completion.cost(FixedRankPoint(point.u, scale * point.s, point.vt))
        for scale in (0.99, 1.0, 1.01)
    ]
    assert costs[1] < min(costs[0], costs[2])
    with pytest.raises(ValueError, match="^k must be less than"):
        completion.spectral_point(7)
    with pytest.raises(ValueError, match="^the observed entries are all zero"):
        MatrixCompletion(entries([0.0, 0.0], [0, 1], [1, 2])).spectral_point(1)
    # One row of entries is of rank one.
    with pytest.raises(ValueError, match="^k must be at most the rank of the observed entries"):
        MatrixCompletion(entries([1.0, 2.0], [1, 1], [0, 2])).spectral_point(2)
    whole = coo_array(rng.standard_normal((8, 2)) @ rng.standard_normal((2, 6)))
    with pytest.raises(ValueError, match="^k must be at most the rank of the observed entries"):
        MatrixCompletion(whole).spectral_point(3)


def test_the_spectral_point_is_the_best_approximation(rng):
    completion, target, seen = completion_of(rng, 9, 7, 3, 0.6)
    observed = np.where(seen, target, 0.0)
    U, s, Vt = np.linalg.svd(observed)
    best = U[:, :2] * s[:2] @ Vt[:2]
    point = completion.spectral_point(2, rng=0)
    scale = np.sum(best * observed) / np.sum(best[seen] ** 2)
    np.testing.assert_allclose(dense(point), scale * best, atol=1e-10)
    np.testing.assert_allclose(point.s, scale * s[:2], rtol=1e-10)
    for source in (None, 1, np.random.SeedSequence(2), np.random.default_rng(3)):
        np.testing.assert_allclose(dense(completion.spectral_point(2, rng=source)), dense(point))
    with pytest.raises(ValueError, match="^rng must be"):
        completion.spectral_point(2, rng=-1)


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_entries_of_any_size_have_a_spectral_point(rng, size):
    completion, target, seen = completion_of(rng, 9, 7, 2, 0.6)
    scaled = MatrixCompletion(coo_array((size * target[seen], np.nonzero(seen)), shape=(9, 7)))
    point, other = completion.spectral_point(2), scaled.spectral_point(2)
    np.testing.assert_allclose(dense(other), size * dense(point), rtol=1e-8, atol=1e-8 * size)
    assert scaled.train_error(other) == pytest.approx(size * completion.train_error(point))


def test_whole_numbers_may_be_observed(rng):
    target = rng.integers(1, 5, (6, 5))
    completion = MatrixCompletion(coo_array(target))
    expected = MatrixCompletion(coo_array(target.astype(float)))
    W = rng.standard_normal((6, 5))
    assert completion.cost(W) == expected.cost(W)
    assert completion.gradient(W).dtype == np.float64
    assert completion.hessian_product(np.ones((6, 5), dtype=int)).dtype == np.float64
    point = expected.spectral_point(2, rng=0)
    np.testing.assert_array_equal(completion.spectral_point(2, rng=0).s, point.s)


def test_entries_of_single_precision_are_fitted_in_double(rng):
    target, W = rng.standard_normal((2, 6, 5)).astype(np.float32)
    completion = MatrixCompletion(coo_array(target))
    errors = W.astype(float) - target
    np.testing.assert_array_equal(completion.gradient(W).toarray(), errors)
    assert completion.cost(W) == pytest.approx(np.sum(errors**2) / 2, rel=1e-14)


@pytest.mark.parametrize("chunk_size", [0, -5, 2.5, np.nan])
def test_refuses_chunks_of_no_size(chunk_size):
    with pytest.raises(ValueError, match="^chunk_size must be a whole number, at least 1"):
        MatrixCompletion(entries([1.0], [0], [0]), chunk_size=chunk_size)


def test_every_chunk_size_gives_every_entry(rng):
    W, target = rng.standard_normal((2, 6, 5))
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    for chunk_size in (1, 7, 28, 29, 30, 31):  # 29 leaves one entry for the last chunk
        completion = MatrixCompletion(coo_array(target), chunk_size=chunk_size)
        gradient = completion.gradient((u, s, vt)).toarray()
        np.testing.assert_allclose(gradient, W - target, atol=1e-13)


def test_the_errors_at_a_point_are_computed_once(rng, monkeypatch):
    completion, *_ = completion_of(rng, 9, 7, 2, 0.5, progress=False)
    manifold = FixedRank(9, 7, 2, DeepLinearMetric(2), rng=rng)
    problem, calls = completion.problem(manifold), []
    sample = riemdln.completion._Entries.sample

    def counted(self, left, right):
        calls.append(self)
        return sample(self, left, right)

    monkeypatch.setattr(riemdln.completion._Entries, "sample", counted)
    for expected in (1, 2):
        point = manifold.random_point()
        problem.cost(point)
        problem.riemannian_gradient(point)
        completion.train_error(point)
        assert len(calls) == expected


def test_chunk_sizes_may_be_whole_floats(rng):
    completion, *_ = completion_of(rng, 9, 7, 2, 0.5, chunk_size=1e4)
    point = FixedRank(9, 7, 2, DeepLinearMetric(2), rng=rng).random_point()
    assert completion.test_error(point) > 0


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_trust_regions_complete_a_matrix_from_five_times_its_freedom(rng, depth):
    m, k = 500, 5
    L, R = rng.standard_normal((2, m, k))
    entries = rng.choice(m * m, 5 * k * (2 * m - k), replace=False)
    rows, columns = np.divmod(entries, m)
    observed = coo_array((np.sum(L[rows] * R[columns], axis=1), (rows, columns)), shape=(m, m))
    completion = MatrixCompletion(observed)
    problem = completion.problem(FixedRank(m, m, k, DeepLinearMetric(depth)))
    optimizer = TrustRegions(verbosity=0, min_gradient_norm=1e-8, max_iterations=100)
    result = optimizer.run(problem, initial_point=completion.spectral_point(k))
    error = np.linalg.norm(dense(result.point) - L @ R.T) / np.linalg.norm(L @ R.T)
    assert error < 1e-8


def test_rows_without_entries_are_allowed(rng):
    target = np.outer(np.arange(1.0, 7), np.ones(5))
    seen = np.ones((6, 5), dtype=bool)
    seen[2] = False
    observed = csr_array(coo_array((target[seen], np.nonzero(seen)), shape=(6, 5)))
    completion = MatrixCompletion(observed)
    problem = completion.problem(FixedRank(6, 5, 1, DeepLinearMetric(2), rng=rng))
    result = TrustRegions(verbosity=0).run(problem, initial_point=completion.spectral_point(1))
    assert np.isfinite(dense(result.point)).all()
    np.testing.assert_allclose(dense(result.point)[seen], target[seen], atol=1e-4)


def test_stored_zeros_are_observations():
    completion = MatrixCompletion(entries([0.0, 2.0], [0, 1], [0, 1]))
    assert completion.cost(np.full((3, 4), 1.0)) == pytest.approx((1 + 1) / 2)


@pytest.mark.parametrize(
    ("observed", "error", "message"),
    [
        (np.ones((3, 4)), TypeError, "^observed must be a scipy.sparse array or matrix"),
        (coo_array((3, 4)), ValueError, "^observed must be a matrix with at least one"),
        (
            entries([1.0, np.nan], [0, 1], [0, 2]),
            ValueError,
            r"^observed must be finite, but its entry \(1, 2\) is not",
        ),
        (
            entries([1.0, 2.0, 3.0], [0, 1, 1], [0, 2, 2]),
            ValueError,
            r"^observed must give each entry once, but \(1, 2\)",
        ),
        (
            csr_array((np.ones(2), [2, 2], [0, 0, 2, 2]), shape=(3, 4)),
            ValueError,
            r"^observed must give each entry once, but \(1, 2\)",
        ),
        (entries([1j], [0], [0]), ValueError, "^observed must be real"),
    ],
)
def test_completion_refuses_bad_entries(observed, error, message):
    with pytest.raises(error, match=message):
        MatrixCompletion(observed)


def test_completion_refuses_entries_outside_the_matrix():
    with pytest.raises(ValueError, match="exceeds matrix dimension|row index"):
        entries([1.0], [5], [0])
    with pytest.raises(ValueError, match="^test must have the shape of observed"):
        MatrixCompletion(entries([1.0], [0], [0]), entries([1.0], [0], [0], (4, 4)))
    with pytest.raises(ValueError, match="^test must be given"):
        MatrixCompletion(entries([1.0], [0], [0])).test_error(None)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (3, 5), (5, 3)])
def test_matrices_may_be_written_in_every_way(rng, m, n):
    # Three rows, or factors with three columns, are what a triple could be mistaken for.
    completion, target, seen = completion_of(rng, m, n, 2, 0.7)
    W = rng.standard_normal((m, n))
    errors = np.where(seen, W - target, 0.0)
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    matrices = (W, W.tolist(), tuple(map(tuple, W)), list(W), W.view(np.matrix))
    for point in (*matrices, (u, s, vt), [u, s, vt], FixedRankPoint(u, s, vt)):
        assert completion.cost(point) == pytest.approx(np.sum(errors**2) / 2)
        np.testing.assert_allclose(completion.gradient(point).toarray(), errors, atol=1e-12)
    for direction in (*matrices, (u, np.diag(s), vt.T), [u, np.diag(s), vt.T]):
        along = completion.hessian_product(direction).toarray()
        np.testing.assert_allclose(along, np.where(seen, W, 0.0), atol=1e-12)
    assert completion.train_error(W.tolist()) == completion.train_error(W)
    assert completion.test_error(W.tolist()) == completion.test_error(W)


SHAPED = np.ones((6, 5))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.ones((7, 9)), ValueError, r"must stand for a matrix of shape \(6, 5\), got \(7, 9\)"),
        (np.ones((5, 6)), ValueError, r"must stand for a matrix of shape \(6, 5\), got \(5, 6\)"),
        (np.ones(30), ValueError, "must be a matrix"),
        (np.ones((2, 6, 5)), ValueError, "must be a matrix"),
        (3.0, ValueError, "must be a matrix"),
        (SHAPED * 1j, ValueError, "must be real"),
        (np.where(np.eye(6, 5), np.nan, 1.0), ValueError, "must be finite"),
        (np.ma.masked_array(SHAPED, mask=SHAPED), TypeError, "must be an array without a mask"),
        (array_api_strict.ones((6, 5)), TypeError, "must be a NumPy array, got Array"),
        ([[1.0, 2.0], [3.0]], ValueError, "must be an array of real numbers"),
        ("ab", TypeError, "must be an array of real numbers"),
        (None, TypeError, "must be an array of real numbers"),
    ],
)
def test_refuses_what_is_no_matrix_of_the_shape(rng, bad, error, message):
    completion, *_ = completion_of(rng, 6, 5, 2, 0.5)
    for function in (
        completion.cost,
        completion.gradient,
        completion.train_error,
        completion.test_error,
    ):
        with pytest.raises(error, match=f"^point {message}"):
            function(bad)
    with pytest.raises(error, match=f"^direction {message}"):
        completion.hessian_product(bad)


def test_refuses_triples_that_do_not_fit(rng):
    completion, *_ = completion_of(rng, 6, 5, 2, 0.5)
    u, s, vt = np.ones((6, 2)), np.ones(2), np.ones((2, 5))
    for point in (
        (np.ones((9, 2)), s, vt),
        (u, s, np.ones((2, 9))),
        (np.ones((5, 2)), s, vt),
        (u, s, np.ones((2, 4))),
        (u, np.ones(3), vt),
        (u, s, np.ones((3, 5))),
    ):
        with pytest.raises(ValueError, match=r"^point must stand for a matrix of shape \(6, 5\)"):
            completion.cost(point)
    for direction in (
        (np.ones((9, 2)), np.eye(2), vt.T),
        (np.ones((5, 2)), np.eye(2), vt.T),
        (u, np.eye(2), np.ones((9, 2))),
        (u, np.eye(3), vt.T),
        (u, np.eye(2), vt),
    ):
        with pytest.raises(ValueError, match=r"^direction must be a triple \(U, S, V\) with"):
            completion.hessian_product(direction)
    with pytest.raises(ValueError, match=r"^point\[1\] must be finite"):
        completion.cost((u, np.array([1.0, np.nan]), vt))
    with pytest.raises(ValueError, match=r"^direction\[2\] must be real"):
        completion.hessian_product((u, np.eye(2), vt.T * 1j))
    masked = np.ma.masked_array(vt, mask=vt)
    with pytest.raises(TypeError, match=r"^point\[2\] must be an array without a mask"):
        completion.cost((u, s, masked))


def test_a_mask_is_seen_where_the_same_numbers_are_known(rng):
    completion, *_ = completion_of(rng, 6, 5, 2, 0.5)
    completion.cost(SHAPED)
    with pytest.raises(TypeError, match="^point must be an array without a mask"):
        completion.cost(np.ma.masked_array(SHAPED, mask=SHAPED))


def test_bad_test_entries_are_named():
    observed = entries([1.0], [0], [0])
    with pytest.raises(TypeError, match="^test must be a scipy.sparse array or matrix"):
        MatrixCompletion(observed, np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"^test must be finite, but its entry \(2, 3\) is not"):
        MatrixCompletion(observed, entries([np.inf], [2], [3]))


@pytest.mark.parametrize("form", ["array", "matrix"])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "lil"])
def test_every_sparse_layout_will_do(rng, form, layout):
    target = rng.standard_normal((4, 3)) * (rng.random((4, 3)) < 0.6)
    given = (coo_array if form == "array" else coo_matrix)(target).asformat(layout)
    W = rng.standard_normal((4, 3))
    expected = np.where(target != 0, W - target, 0.0)
    np.testing.assert_allclose(MatrixCompletion(given).gradient(W).toarray(), expected)


def test_problems_are_posed_on_manifolds_of_matrices_and_triples_only():
    completion = MatrixCompletion(entries([1.0], [0], [0]))
    with pytest.raises(TypeError, match="^manifold must be a pymanopt manifold, got 3"):
        completion.problem(3)
    with pytest.raises(ValueError, match="^manifold must have m x n matrices or triples"):
        completion.problem(Product([Euclidean(3, 4), Euclidean(3, 4)]))


def test_a_hessian_is_given_where_the_manifold_takes_one(rng):
    completion, *_ = completion_of(rng, 6, 5, 2, 0.7)
    embedded = completion.problem(FixedRankEmbedded(6, 5, 2))
    with pytest.raises(NotImplementedError):
        embedded.euclidean_hessian  # noqa: B018
    manifold = FixedRank(6, 5, 2, DeepLinearMetric(3), rng=rng)
    problem, point = completion.problem(manifold), manifold.random_point()
    assert issparse(problem.euclidean_gradient(point))
    X = manifold.random_tangent_vector(point)
    assert issparse(problem.euclidean_hessian(point, X))


def test_on_other_manifolds_a_step_is_that_of_a_dense_gradient(rng):
    completion, target, seen = completion_of(rng, 6, 5, 2, 0.7)
    problem = completion.problem(Euclidean(6, 5))
    W, X = rng.standard_normal((2, 6, 5))
    errors = np.where(seen, W - target, 0.0)
    gradient = problem.riemannian_gradient(W)
    assert type(gradient) is np.ndarray
    np.testing.assert_allclose(gradient, errors)
    np.testing.assert_allclose(problem.riemannian_hessian(W, X), np.where(seen, X, 0.0))
    assert completion.latest_point is W
