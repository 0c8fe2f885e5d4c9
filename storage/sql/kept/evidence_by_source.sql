-- how much of the picture the evidence of each source covers
SELECT
    source,
    count(*) AS n_with_boxes,
    avg((evidence_area_frac >= 0.95)::INTEGER) AS share_nearly_all,
    avg((evidence_area_frac <= 0.001)::INTEGER) AS share_nearly_nothing,
    median(evidence_area_frac) AS median_area_frac,
    min(evidence_area_frac) AS smallest_area_frac,
    arg_min(example_id, (evidence_area_frac, example_id)) AS smallest_example
FROM examples
WHERE n_boxes > 0
GROUP BY source
ORDER BY greatest(share_nearly_all, share_nearly_nothing) DESC, source
