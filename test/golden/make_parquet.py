"""Parquet files as pyarrow writes them, in base64: each codec, dictionaries, two row groups, nested conversations."""

import base64
import io

import pyarrow as pa
import pyarrow.parquet as pq

from golden_file import write_golden


def written(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return base64.b64encode(sink.getvalue()).decode()


texts = [f"Text {index}: äöü \U0001f642\n" + "again and " * (index % 4) for index in range(10)]
plain = pa.table({"url": [f"u{index % 3}" for index in range(10)], "text": texts, "score": pa.array(range(10), pa.int64())})
conversations = [
    [{"role": "system", "content": "Short."}, {"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}],
    [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2 — zwei"}],
]
message = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int64())])
chat = pa.table({"id": [1, 2], "messages": pa.array(conversations, pa.list_(message))})
files = {
    **{codec: written(plain, compression=codec, row_group_size=6) for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]},
    "pages_v2": written(plain, data_page_version="2.0", compression="zstd", use_dictionary=False),
    "missing_texts": written(pa.table({"text": ["one", None, "three"]})),
    "chat": written(chat),
    "no_text": written(pa.table({"question": ["a"], "answer": ["b"]})),
    "numbers": written(pa.table({"text": pa.array([1, 2], pa.int64())})),
}
write_golden("parquet", None, ["pyarrow"], {"texts": texts, "conversations": conversations, "files": files})
