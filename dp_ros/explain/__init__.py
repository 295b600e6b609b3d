"""Why a policy that draws: what several policies do where there are two equally good ways, in numbers and pictures."""
