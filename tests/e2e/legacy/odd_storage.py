"""Not a storage object: it has arguments, and nothing else."""


class StorageObject:
    def __init__(self, options):
        pass

    @classmethod
    def parser(cls, parser):
        return parser
