-- Which rows can the policy not be trained on, why, and how long are the others?
SELECT
    split,
    coalesce(reason, 'fits') AS reason,
    count(*) AS n,
    quantile_disc(n_prompt_tokens, 0.5) AS median_prompt_tokens,
    max(n_prompt_tokens) AS most_prompt_tokens,
    max(n_image_tokens) AS most_image_tokens,
    max(n_reference_tokens) AS most_reference_tokens,
    count(*) FILTER (smallest_box_cells < 1) AS n_with_a_box_below_a_cell,
    min(example_id) AS an_example,
    arg_min(detail, example_id) AS its_detail
FROM processed_rows
GROUP BY split, reason
ORDER BY split, n DESC, reason;
