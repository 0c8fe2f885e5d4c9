-- Is any picture in both training and test? (no row = no)
SELECT
    i.pixels_sha256,
    list(DISTINCT s.split ORDER BY s.split) AS splits,
    list(DISTINCT i.file_name ORDER BY i.file_name) AS files
FROM splits AS s
JOIN images AS i USING (image_sha256)
WHERE s.split <> 'excluded'
GROUP BY i.pixels_sha256
HAVING count(DISTINCT s.split) > 1
ORDER BY i.pixels_sha256;
