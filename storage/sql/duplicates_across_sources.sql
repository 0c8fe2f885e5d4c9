-- Which sources share pictures, re-encoded or not, and how many examples of each hang on them?
SELECT
    source,
    also_in,
    n_pictures,
    n_examples,
    n_examples_there,
    a_picture
FROM pictures_shared
ORDER BY n_pictures DESC, source, also_in;
