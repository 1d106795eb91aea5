"""A stand-in for `torch_scatter`, which has no wheels for this torch, by torch's own reductions."""


def scatter(src, index, dim=0, dim_size=None, reduce="sum"):
    """The sums or means (B, ...) of the entries of each index."""
    index = index.view(-1, *[1] * (src.ndim - 1)).expand_as(src)
    zeros = src.new_zeros(int(index.max()) + 1 if dim_size is None else dim_size, *src.shape[1:])
    return zeros.scatter_reduce(0, index, src, reduce, include_self=False)


def scatter_add(src, index, dim=0):
    return scatter(src, index, reduce="sum")


def scatter_mean(src, index, dim=0):
    return scatter(src, index, reduce="mean")
