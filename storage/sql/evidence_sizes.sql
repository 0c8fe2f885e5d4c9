-- In which sources does the evidence cover nearly the whole picture or nearly nothing, and which is the smallest?
SELECT
    source,
    n_with_boxes,
    share_nearly_all,
    share_nearly_nothing,
    median_area_frac,
    smallest_area_frac,
    smallest_example
FROM evidence_by_source
ORDER BY greatest(share_nearly_all, share_nearly_nothing) DESC, source;
