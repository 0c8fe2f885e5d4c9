-- How did each policy's training go, step by step?
SELECT
    policy_id,
    stage,
    step,
    loss,
    reward_mean,
    format_mean,
    accuracy_mean,
    saliency_mean,
    frac_zero_std,
    n_unscorable,
    entropy,
    token_accuracy,
    seconds
FROM training_steps
ORDER BY policy_id, stage, step;
