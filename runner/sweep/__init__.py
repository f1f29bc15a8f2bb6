"""run.py sweep: a workflow's drafts for many seeds, on one machine or a cluster, and finals of the picked.

options.py   what the command line says
plan.py      from a workflow file to the prompts of its drafts and finals
results.py   the folder of pictures with its table: what is done, and what is left
page.py      the folder's index.html
worker.py    a ComfyUI in this process that runs prompts
cluster.py   the workers as Ray actors, and the loop that keeps them busy
__main__.py  all of it; runs in ComfyUI's Python, the others but worker.py and cluster.py in any
"""
