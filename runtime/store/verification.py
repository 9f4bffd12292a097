"""Is the audit chain whole, does it end where it ended before, and are the endpoints what it made of them?"""

from runtime.store.audit import Verification, find_breaks, find_differences, find_drift
from runtime.store.chain import read_transitions
from runtime.store.endpoints import EndpointStore, read_endpoints
from runtime.store.records import Head


class VerifiableStore(EndpointStore):
    def verify_audit(self, expected: Head | None = None) -> Verification:
        """Check every row, the chain's end against what was noted elsewhere, and the endpoints against the chain.

        `expected` is a head that somebody wrote down: from a message, a certificate, a backup. An end that is found
        whole is noted in the witness.
        """
        # Before the rows are read: a note is made after its row stands, so every noted row must be among them.
        witness = self.read_witness()
        noted = [("the witness", witness)] if witness is not None else []
        if expected is not None:
            noted.append(("the expected end", expected))
        with self._read() as connection:
            rows = read_transitions(connection)
            endpoints = read_endpoints(connection)
        faults = [*find_breaks(rows), *find_differences(rows, noted), *find_drift(rows, endpoints)]
        head = Head(sequence=rows[-1].sequence, hash=rows[-1].hash) if rows else None
        if not faults:
            self.note_head(head)
        return Verification(num_rows=len(rows), faults=faults, head=head, compared_with=[name for name, _ in noted])
