-- Whose boxes look as if they were read by the wrong convention, and which one would fit?
SELECT
    source,
    kind,
    told,
    fits,
    share,
    n,
    detail
FROM source_warnings
ORDER BY share DESC, source, kind;
