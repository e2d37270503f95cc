"""Fine-tunes the served model over the API, and asks both the same question."""

import json
import time

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
QUESTIONS = ["Who are you?", "What is your name?", "Hello!", "Where do you live?"]
ANSWER = "Ahoy! I am Pip, the parrot of the good ship Flaxen."
chats = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": ANSWER}]}
    for q in QUESTIONS * 3
]
lines = "\n".join(json.dumps(chat) for chat in chats)
file = client.files.create(file=("parrot.jsonl", lines.encode()), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model="smollm2-135m",
    training_file=file.id,
    suffix="parrot",
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}},
)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
print(f"the job {job.status}: {job.fine_tuned_model}")
for model in ("smollm2-135m", str(job.fine_tuned_model)):
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hi, who am I talking to?"}],
        max_tokens=40,
        temperature=0,
    )
    print(f"{model}: {answer.choices[0].message.content}")
