"""How each library finds neighbours among vectors of each type: always by looking at all of them, so that what is missed is missed for the
type's sake, not for an index's."""

import faiss
import numpy
from usearch.index import Index

K = 10


def _floats(rows):
    return numpy.ascontiguousarray(rows, dtype=numpy.float32)


def exact(stored, queries):
    """The true neighbours: by the cosine of f32, which of unit vectors is the dot product."""
    index = faiss.IndexFlatIP(stored.shape[1])
    index.add(_floats(stored))
    return index.search(_floats(queries), K)[1]


def faiss_scalar(quantizer, metric):
    """By faiss: kept as bytes (or f16) as they are, whose numbers are compared."""

    def search(stored, queries):
        index = faiss.IndexScalarQuantizer(stored.shape[1], quantizer, metric)
        index.train(_floats(stored))
        index.add(_floats(stored))
        return index.search(_floats(queries), K)[1]

    return search


def usearch_scalar(dtype, metric):
    """By usearch, in its own type of the same name."""

    def search(stored, queries):
        index = Index(ndim=stored.shape[1], metric=metric, dtype=dtype)
        index.add(numpy.arange(len(stored)), stored)
        return numpy.asarray(index.search(queries, K, exact=True).keys, dtype=numpy.int64)

    return search


def faiss_bits(stored, queries, count):
    index = faiss.IndexBinaryFlat(stored.shape[1] * 8)
    index.add(stored)
    return index.search(queries, count)[1]


def usearch_bits(stored, queries, count):
    index = Index(ndim=stored.shape[1] * 8, metric="hamming", dtype="b1")
    index.add(numpy.arange(len(stored)), stored)
    return numpy.asarray(index.search(queries, count, exact=True).keys, dtype=numpy.int64)


def rescored(candidates, stored, queries):
    """The best of the candidates of each query, by f32."""
    cosines = numpy.einsum("qcd,qd->qc", stored[candidates], queries)
    order = numpy.argsort(-cosines, axis=1, kind="stable")[:, :K]
    return numpy.take_along_axis(candidates, order, axis=1)


def centred_bits(stored, queries):
    """Bits of what is left when the mean of the stored vectors is taken away, from the queries too."""
    mean = stored.mean(axis=0)
    return [numpy.packbits(rows >= mean, axis=1) for rows in (stored, queries)]


def recall(true, found):
    """The share of the true neighbours that is found."""
    return float(numpy.mean([len(set(a) & set(b)) / K for a, b in zip(true.tolist(), found.tolist())]))


# By type: what it is called in the table, and the search.
SCALARS = {
    "float16": [
        ("faiss, dot", faiss_scalar(faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)),
        ("usearch f16, cos", usearch_scalar("f16", "cos")),
    ],
    "int8": [
        ("faiss, dot", faiss_scalar(faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)),
        ("faiss, L2", faiss_scalar(faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_L2)),
        ("usearch i8, cos", usearch_scalar("i8", "cos")),
    ],
    # A dot product of numbers that are all 128 too large is no measure; a distance is. usearch 2.26.6 takes arrays of uint8 and gives
    # other numbers back: for it, take int8.
    "uint8": [
        ("faiss, L2", faiss_scalar(faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2)),
    ],
}
