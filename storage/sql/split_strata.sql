-- How is each stratum (source x answer type) split, and how many standard deviations does each share stray?
-- A draw is a picture, or a group of near duplicates. Shares are held against those of all sources together, and
-- pictures of a marked slice, which a source may have made for one side, do not count.
WITH drawn AS (
    SELECT DISTINCT
        e.source,
        e.answer_type,
        s.split,
        coalesce(s.group_sha256, s.image_sha256) AS draw
    FROM splits AS s
    JOIN examples AS e USING (example_id)
    WHERE s.split <> 'excluded'
      AND s.image_sha256 NOT IN (SELECT image_sha256 FROM examples WHERE slice IS NOT NULL)
),
sides AS (
    SELECT split, count(DISTINCT draw) / sum(count(DISTINCT draw)) OVER () AS share_of_all
    FROM drawn
    GROUP BY split
),
strata AS (
    SELECT source, answer_type, count(*) AS n_draws
    FROM drawn
    GROUP BY source, answer_type
)
SELECT
    t.source,
    t.answer_type,
    d.split,
    count(r.draw) AS n,
    t.n_draws AS n_of_stratum,
    count(r.draw) / t.n_draws AS share,
    d.share_of_all,
    (count(r.draw) / t.n_draws - d.share_of_all)
    / nullif(sqrt(d.share_of_all * (1 - d.share_of_all) / t.n_draws), 0) AS sigmas
FROM strata AS t
CROSS JOIN sides AS d
LEFT JOIN drawn AS r
    ON r.source = t.source AND r.answer_type = t.answer_type AND r.split = d.split
GROUP BY t.source, t.answer_type, t.n_draws, d.split, d.share_of_all
ORDER BY t.source, t.answer_type, d.split;
