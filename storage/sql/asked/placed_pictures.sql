-- Which pictures lie on some sides, each side of a picture once?
SELECT DISTINCT image_sha256, split
FROM splits
WHERE split IN (SELECT unnest(?))
ORDER BY image_sha256, split
