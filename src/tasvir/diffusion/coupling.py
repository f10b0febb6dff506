"""Which noise goes with which picture of a batch."""

import torch
from torch import Tensor


@torch.no_grad()
def coupled(clean: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
    """The noise [B,...] in the order in which the squared distances to the pictures [B,...] have the least sum.

    Optimal transport within a batch (Pooladian et al. 2023, arXiv 2304.14772; Tong et al. 2023, arXiv 2302.00482). With
    classes `label` [B] noise stays within the class that it was drawn beside: were it to change classes, each would
    come from a part of the noise only, and a class that is asked for is drawn from all of it.
    """
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(clean.flatten(1).float(), noise.flatten(1).float()).square()
    if label is not None:
        cost = cost + (label[:, None] != label) * (len(cost) * cost.max() + 1)
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return noise[torch.from_numpy(order).to(noise.device)]
