"""How clients of Pusher Channels speak, and the apps whose keys they have."""
