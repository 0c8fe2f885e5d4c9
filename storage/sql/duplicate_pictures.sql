-- Which pictures are copies of which, within and across sources: same file, same pixels, or a near duplicate?
-- One row for each picture of a group and each source that asks about it; the first of a group is what the others are held against.
WITH places AS (
    SELECT DISTINCT s.image_sha256, s.group_sha256, s.split, s.split_rule, e.source
    FROM splits AS s
    JOIN examples AS e USING (example_id)
    WHERE s.group_sha256 IS NOT NULL
),
members AS (
    SELECT
        p.*,
        i.file_name,
        i.pixels_sha256,
        i.phash,
        count(*) OVER (PARTITION BY p.group_sha256) AS n_in_group,
        row_number() OVER (PARTITION BY p.image_sha256 ORDER BY p.source <> i.source, p.source) AS nth_of_file
    FROM places AS p
    JOIN images AS i USING (image_sha256)
)
SELECT
    m.group_sha256 AS first_picture,
    m.n_in_group,
    CASE
        WHEN m.image_sha256 = m.group_sha256 AND m.nth_of_file = 1 THEN 'first'
        WHEN m.image_sha256 = m.group_sha256 THEN 'same file'
        WHEN m.pixels_sha256 = f.pixels_sha256 THEN 'same pixels'
        ELSE 'near duplicate'
    END AS likeness,
    bit_count(xor(m.phash, f.phash)) AS bits_apart,
    m.source,
    m.file_name,
    m.split,
    m.split_rule
FROM members AS m
LEFT JOIN members AS f ON f.image_sha256 = m.group_sha256 AND f.nth_of_file = 1
WHERE m.n_in_group > 1
ORDER BY first_picture, likeness <> 'first', m.source, m.file_name;
