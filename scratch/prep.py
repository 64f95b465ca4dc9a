from pathlib import Path
import benchmarks.command as c, json
f=Path('/tmp/w/spd'); f.mkdir(exist_ok=True)
cmd=c._prepare(f); json.dump(cmd,open('/tmp/w/spd/cmd.json','w')); print(cmd)
