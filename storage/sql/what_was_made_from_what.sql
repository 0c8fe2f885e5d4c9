-- What is current, what made it, and from what?
SELECT
    a.kind,
    a.name,
    a.producer,
    a.n_rows,
    left(a.sha256, 12) AS sha256,
    coalesce(list(e.role || ' ' || left(e.parent, 12) ORDER BY e.role) FILTER (e.role IS NOT NULL), []) AS parents,
    a.git_commit,
    a.created_at
FROM artifacts AS a
LEFT JOIN lineage_edges AS e ON e.child_record = a.work_key || '.' || a.output AND e.child = a.sha256
WHERE a.is_current
GROUP BY ALL
ORDER BY a.kind, a.name, sha256;
