-- the archived maps of each policy by how they were made, with their scores beside chance
SELECT
    policy,
    method,
    rows,
    span,
    count(*) AS n_maps,
    min(grid_h * grid_w) AS cells_least,
    max(grid_h * grid_w) AS cells_most,
    avg(mass) AS mass,
    avg(chance) AS chance,
    avg(lift) AS lift,
    avg(pointing_hit::INTEGER) AS pointing,
    count(lift) AS n_scored
FROM saliency_maps
GROUP BY policy, method, rows, span
ORDER BY policy, method, rows, span
