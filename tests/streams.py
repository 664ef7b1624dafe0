"""The batches that a run reads, also when it continues at some step."""

from src.data import batches


def epochs_of(source, epochs=1, skip=0):
    """Batches (image, label) as arrays, one list per epoch, of `Batches` from step `skip` on."""
    first, done = divmod(skip, source.steps)
    lists = []
    for number in range(first, epochs):
        data = source.epoch(number)
        if number == first and done:
            data.set_init_step(done)
        lists.append(list(batches(data.create_tuple_iterator(num_epochs=1, output_numpy=True))))
    return lists
