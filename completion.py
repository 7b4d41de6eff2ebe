SHELLS=("bash","zsh","fish")
