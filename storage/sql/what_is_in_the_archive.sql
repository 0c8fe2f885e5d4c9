-- Which kinds of saliency map are archived, how many, on what grids, and how do they score?
SELECT
    policy,
    method,
    rows,
    span,
    n_maps,
    cells_least,
    cells_most,
    mass,
    chance,
    lift,
    pointing,
    n_scored
FROM maps_by_kind
ORDER BY policy, method, rows, span;
