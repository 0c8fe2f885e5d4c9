-- How many examples and pictures of each source are in each split, and how much of a picture is evidence?
SELECT
    s.split,
    e.source,
    count(*) AS n_examples,
    count(DISTINCT e.image_sha256) AS n_pictures,
    avg(e.evidence_area_frac) AS mean_evidence_area_frac
FROM splits AS s
JOIN examples AS e USING (example_id)
GROUP BY s.split, e.source
ORDER BY s.split, e.source;
